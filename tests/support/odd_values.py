"""Values and keys of which the campaign draws what a user, or a script that went wrong, may write."""

from __future__ import annotations

ODD = [
    "0", "-1", "1.5", "nan", "inf", "-inf", "1e400", "10000000000000000000000", "1e-400", "", " ", "None", "null",
    "True", "[]", "[1]", "[None]",
    "{}", "{a: 1}", "{a: {b: [1, {c: d}]}}", "abc", "'", '"', "[1, 2", "{a", "!!int x", "0x10", "1_000", "\u0661",
    "日本", "\x00x", "a\nb", "-", "--", "=",
    "1,2", "*", "&a", "*a", "%", "@", "`", "2020-01-01", ".5", "5.", "+5", "(1, 2)", "lambda: 1", "x" * 5000,
    "[" * 2000, "~", "~root", "/", "..",
]  # fmt: skip
"""Values that are wrong for most keys."""

RUN_KEYS = [
    "model", "teacher", "kd", "dataset", "seed", "epochs", "train_batch_size", "learning_rate", "topk", "metrics",
    "valid_metric", "eval_args",
    "eval_args.split", "eval_args.order", "eval_args.mode", "eval_args.group_by", "load_col", "embedding_size",
    "teacher.embedding_size",
    "teacher.epochs", "teacher.model", "teacher.seed", "teacher_store", "teacher_dtype", "teacher_svd",
    "teacher_config", "setting",
    "eval_protocol", "loss_reduction", "init_std", "max_minutes", "stopping_step", "eval_step", "eval_batch_size",
    "clip_grad_norm",
    "weight_decay", "learner", "train_neg_sample_args", "item_features", "text_encoder", "nproc", "gpu_id",
    "use_gpu", "resume", "config_files",
    "kd_compare", "kd_weight", "init_from", "device", "split_seed", "user_inter_num_interval", "val_interval",
    "filter_inter_by_user_or_item", "time_order",
    "benchmark_filename", "field_separator", "USER_ID_FIELD", "metric_decimal_place", "state", "log_wandb",
    "repeatable", "reproducibility",
]  # fmt: skip
"""Keys of a run that the campaign sets."""
