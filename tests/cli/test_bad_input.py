"""Bad input: one sentence that names the value and what to do, exit code 2, no traceback, nothing left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recbole_kd.cli.run import main
from recbole_kd.config.merging import merge_sources
from recbole_kd.config.parsing import parse_arguments
from recbole_kd.data.split_and_loaders import Loaders
from recbole_kd.errors import ConfigError, TrainingError
from recbole_kd.pipeline.plan import make_plan
from recbole_kd.pipeline.request import make_request
from recbole_kd.teacher import export
from recbole_kd.training.training_job import TrainingFiles, TrainingJob
from tests.support.advice import follow
from tests.support.helpers import write_tiny
from tests.support.runs import run, words

VECTORS: dict[str, str | None] = {"kd": "DE", **dict.fromkeys(("kd_k", "kd_n_samples", "kd_candidates"))}
CASES: dict[str, tuple[dict[str, str | None], list[str], list[str]]] = {
    # id: (keys set or left out, further words, what the sentence must hold)
    "unknown-model": ({"model": "MFF"}, [], ["MFF", "MF"]),
    "unknown-teacher": ({"teacher": "LightGNC"}, [], ["LightGNC", "LightGCN"]),
    "unknown-kd": ({"kd": "RCKD"}, [], ["RCKD", "RCEKD"]),
    "unknown-dataset": ({"dataset": "tinny"}, [], ["tinny", "did you mean tiny?", "tinny.inter"]),
    "known-dataset": ({"dataset": "citeulik"}, [], ["citeulik", "did you mean citeulike?"]),
    "dataset-without-files": ({"dataset": "zzqx"}, [], ["zzqx.inter", "--data_path"]),
    "number-as-name": ({"dataset": "2018"}, [], ["dataset=2018", "text"]),
    "not-prepared": ({"dataset": "citeulike"}, [], ["recbole-kd prepare citeulike"]),
    "sequential-teacher": (
        {"teacher": "SASRec", "teacher.embedding_size": None, "eval_args.order": None},
        [],
        ["SASRec", "sequential"],
    ),
    "sequential-student": (
        {"model": "GRU4Rec", "setting": "general", "eval_args.order": None},
        [],
        ["GRU4Rec", "sequential"],
    ),
    "own-data-set": ({"teacher": "DIEN"}, [], ["DIEN needs its own data set class", "another model"]),
    "closed-form-student": ({"model": "EASE"}, [], ["EASE", "TraditionalTrainer"]),
    "special-trainer": ({"model": "NCL"}, [], ["NCL", "NCLTrainer"]),
    "no-teacher": ({"teacher": None}, [], ["--teacher"]),
    "no-kd": ({"kd": None}, [], ["--kd"]),
    "unknown-kd-key": ({}, ["--kd_tua=3"], ["kd_tua", "kd_tau"]),
    "kd-key-not-let-through": ({}, ["--kd_tua=3", "--allow_unknown=kd_tua"], ["kd_tua", "kd_tau"]),
    "unknown-teacher-key": ({}, ["--teacher.embeding_size=3"], ["teacher.embeding_size", "embedding_size"]),
    "kd-type": ({"kd_k": "abc"}, [], ["Invalid --kd_k=abc", "an integer", "Try --kd_k=50"]),
    "kd-list": ({}, ["--kd_beta=[1]"], ["kd_beta", "number"]),
    "kd-choice": ({}, ["--kd_faithful=both"], ["kd_faithful", "code"]),
    "kd-zero": ({"kd_k": "0"}, [], ["kd_k=0"]),
    "kd-catalogue": ({"kd_k": "100000"}, [], ["kd_k=100000", "from 1 to 40 (the number of items)"]),
    "kd-samples": ({"kd_n_samples": "20"}, [], ["kd_n_samples=20", "kd_candidates"]),
    "kd-weight": ({}, ["--kd_weight=-1"], ["kd_weight=-1"]),
    "kd-temperature": ({}, ["--kd_temperature=0"], ["kd_temperature=0"]),
    "kd-tau": ({}, ["--kd_tau=0"], ["kd_tau=0"]),
    "kd-refresh": ({}, ["--kd_refresh=0"], ["kd_refresh=0"]),
    "kd-compare": ({}, ["--kd_compare=maybe"], ["kd_compare", "maybe"]),
    "epochs": ({"epochs": "abc"}, [], ["epochs", "abc"]),
    "negative-epochs": ({"epochs": "-1"}, [], ["epochs", "-1"]),
    "learner": ({}, ["--learner=adamm"], ["learner", "adamm"]),
    "metric": ({}, ["--valid_metric=NDCG@30"], ["valid_metric", "NDCG@30"]),
    "unknown-key": ({}, ["--learning_rte=1"], ["learning_rte", "learning_rate"]),
    "no-equals": ({}, ["--seed", "3"], ["--seed=3"]),
    "twice": ({}, ["--seed=3", "--seed=4"], ["seed", "3", "4"]),
    "setting": ({}, ["--setting=sequental"], ["sequental", "general"]),
    "protocol": ({}, ["--eval_protocol=papper"], ["papper", "recbole"]),
    "protocol-metric": (
        {},
        ["--eval_protocol=paper", "--metrics=[NDCG, GAUC]", "--valid_metric=NDCG@10"],
        ["eval_protocol=paper", "GAUC"],
    ),
    "protocol-mode": (
        {},
        ["--eval_protocol=paper", "--eval_args.mode=uni20"],
        ["eval_protocol=paper", "eval_args.mode=full"],
    ),
    "std-zero": ({}, ["--init_std=0"], ["init_std=0", "greater than 0"]),
    "std-text": ({}, ["--init_std=abc"], ["init_std", "abc"]),
    "teacher-std": ({}, ["--teacher.init_std=-1"], ["teacher.init_std=-1"]),
    "track": ({}, ["--kd_track=[ranks]"], ["kd_track", "ranks", "train_ndcg"]),
    "store": ({}, ["--teacher_store=sparse"], ["sparse", "dense"]),
    "dtype": ({}, ["--teacher_dtype=int8"], ["int8", "fp16"]),
    "reduction": ({}, ["--loss_reduction=max"], ["max", "mean"]),
    "teacher-missing": (
        {"teacher": None, "teacher_path": "nowhere", "teacher.epochs": None, "teacher.embedding_size": None},
        [],
        ["nowhere"],
    ),
    "teacher-both": ({"teacher_path": "nowhere"}, [], ["teacher.epochs", "teacher_path"]),
    "teacher-and-path": (
        {"teacher_path": "nowhere", "teacher.epochs": None, "teacher.embedding_size": None},
        [],
        ["teacher=LightGCN", "teacher_path=nowhere", "leave one out"],
    ),
    "teacher-list": ({"teacher": "[MF, LightGCN]"}, [], ["--teacher=MF,LightGCN names 2"]),
    "teacher-mapping": ({"teacher": "{a: MF}"}, [], ["teacher={a: MF}", "--teacher=MF,LightGCN"]),
    "model-of-teacher": ({}, ["--teacher.model=BPR"], ["teacher.model=BPR", "--teacher"]),
    "online-teacher": (
        {"teacher": "EASE", "teacher.epochs": None, "teacher.embedding_size": None},
        ["--teacher_store=online"],
        ["teacher_store=online cannot keep EASE"],
    ),
    "address-of-factors": (
        {},
        ["--teacher_ray_address=local"],
        ["teacher_ray_address=local has no effect on LightGCN", "factors"],
    ),
    "svd-too-wide": ({}, ["--teacher_svd=8"], ["teacher_svd=8 is not possible with LightGCN", "from 1 to 7"]),
    "run-key-of-teacher": ({}, ["--teacher.resume=True"], ["teacher.resume has no effect", "--resume"]),
    "choice-of-teacher": (
        {},
        ["--teacher.loss_reduction=Sum"],
        ["teacher.loss_reduction", "=Sum", "Try --teacher.loss_reduction=sum"],
    ),
    "reduction-of-teacher": (
        {"teacher": "NCL"},
        ["--teacher.loss_reduction=sum"],
        ["loss_reduction=sum has no effect on NCL"],
    ),
    "processes-of-teacher": ({"teacher": "SGL"}, ["--teacher.nproc=2"], ["nproc=2 is not possible with SGL"]),
    "split-of-teacher": ({}, ["--teacher.eval_args={order: RO}"], ["teacher.eval_args", "--eval_args"]),
    "data-of-teacher": ({}, ["--teacher.dataset=ml-100k"], ["teacher.dataset", "--dataset"]),
    "columns-of-teacher": ({}, ["--teacher.load_col={inter: [user_id, item_id]}"], ["teacher.load_col", "--load_col"]),
    "checkpoint-svd": (
        {"teacher": None, "teacher_path": "LightGCN.pth", "teacher.epochs": None, "teacher.embedding_size": None},
        ["--teacher_svd=3"],
        ["teacher_svd=3", "--teacher instead"],
    ),
    "teacher-without-vectors": (
        {**VECTORS, "teacher": "EASE", "teacher.embedding_size": None},
        [],
        ["DE needs the teacher's embeddings and EASE (dense store) has none"],
    ),
    "dense-vectors": (
        {**VECTORS, "teacher_store": "dense"},
        [],
        ["DE needs the teacher's embeddings and LightGCN (dense store) has none"],
    ),
    "NeuMF-vectors": ({**VECTORS, "model": "NeuMF"}, [], ["DE needs the vectors of the student and NeuMF has none"]),
    "MultiVAE-vectors": (
        {**VECTORS, "model": "MultiVAE"},
        [],
        ["DE needs the vectors of the student and MultiVAE has none"],
    ),
    "SASRec-tables": (
        {**VECTORS, "kd": "FreqD", "model": "SASRec", "eval_args.order": None, "embedding_size": None},
        [],
        ["FreqD filters the student's own tables: SASRec, which encodes histories, has no user_embedding"],
    ),
    "no-factors": ({"teacher": "EASE", "teacher.embedding_size": None}, ["--teacher_store=factors"], ["EASE", "dense"]),
    "config-missing": ({}, ["--config_files=none.yaml"], ["none.yaml"]),
    "no-validation": ({}, ["--eval_args.split={RS: [0.9, 0.0, 0.1]}"], ["validation", "tiny"]),
    "cutoff": (
        {},
        ["--topk=[50]", "--valid_metric=NDCG@50"],
        ["topk=[50]", "40 items", "Try --topk='[40]' --valid_metric=NDCG@40"],
    ),
    "cutoff-of-teacher": (
        {},
        ["--teacher.topk=[50]", "--teacher.valid_metric=NDCG@50"],
        ["topk=[50]", "40 items", "Try --teacher.topk='[40]' --teacher.valid_metric=NDCG@40"],
    ),
    "cache-type": ({"cache_dir": "3"}, [], ["cache_dir=3", "path"]),
    "cache-no-folder": ({"cache_dir": "/dev/null/x"}, [], ["cache_dir=/dev/null/x", "writable"]),
    "output-no-folder": ({"output_dir": "/dev/null/x"}, [], ["output_dir=/dev/null/x", "writable"]),
    "allow-unknown-type": ({}, ["--allow_unknown=3"], ["allow_unknown=3", "key"]),
    "constructor": (
        {"model": "NeuMF", "embedding_size": None},
        ["--mlp_hidden_size=[]"],
        ["NeuMF", "IndexError", "keys"],
    ),
    "heads": (
        {"model": "SASRec", "embedding_size": None, "eval_args.order": None},
        ["--hidden_size=15", "--n_heads=2"],
        ["SASRec", "hidden size (15)", "heads (2)"],
    ),
    "heads-of-teacher": (
        {"model": "MF", "teacher": "GRU4Rec,SASRec", "kd": "HetComp", "setting": "sequential", "eval_args.order": None}
        | dict.fromkeys(("kd_n_samples", "kd_candidates", "teacher.embedding_size")),
        ["--teacher.hidden_size=15"],
        ["SASRec", "hidden size (15)", "heads (2)"],
    ),
    "infinite": ({}, ["--learning_rate=.inf"], ["learning_rate"]),
}


NOT_FOLLOWED_HERE = {
    "kd-type",  # test_advice.py has it on more items than the 50 that it advises
    "kd-zero",
    "address-of-factors",  # test_advice.py has it too; it starts Ray
    "number-as-name",  # there is no data set of this name
}
"""Cases whose advice is no way out on this data set."""


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and "data" not in path.relative_to(folder).parts]


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("error:", "Traceback"))]
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize("case", CASES)
def test_one_sentence(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    changes, more, expected = CASES[case]
    given = [*words(tmp_path, **changes), *more]
    assert main(given) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ")
    for word in expected:
        assert word in said
    assert not (tmp_path / "saved").exists()
    assert files_in(tmp_path) == []
    if case not in NOT_FOLLOWED_HERE:
        follow(said, given, capsys)


def test_teachers_may_be_a_list(tmp_path: Path) -> None:
    given = merge_sources(
        None,
        None,
        parse_arguments(words(tmp_path, kd="HetComp", teacher="[MF, LightGCN]", kd_n_samples=None, kd_candidates=None)),
    )
    assert make_request(given).teachers == ["MF", "LightGCN"]


def test_a_saved_teacher_that_lacks_what_the_method_needs_is_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run(tmp_path, kd_compare="False", teacher_store="dense")["teacher"]["path"]
    capsys.readouterr()
    made = set(tmp_path.rglob("*"))
    saved = {**VECTORS, "teacher": None, "teacher_path": path, "teacher.epochs": None, "teacher.embedding_size": None}
    assert main(words(tmp_path, **saved)) == 2
    assert "DE needs the teacher's embeddings and LightGCN (dense store) has none" in sentence(capsys)
    assert set(tmp_path.rglob("*")) == made


def test_factors_of_any_teacher_have_vectors(tmp_path: Path) -> None:
    changes = {
        **VECTORS,
        "teacher": "EASE",
        "teacher.embedding_size": None,
        "teacher.epochs": None,
        "kd_compare": "False",
        "epochs": "1",
    }
    assert run(tmp_path, "--teacher_svd=3", **changes)["distilled"]["kd_loss"][0] > 0


def test_a_key_of_ones_own_passes_when_allowed(tmp_path: Path) -> None:
    assert run(tmp_path, "--my_key=3", "--allow_unknown=my_key", kd_compare="False")["kd"] == "RCEKD"
    named = {"kd_compare": "False", "teacher.my_width": "8"}
    assert main([*words(tmp_path, **named), "--allow_unknown=my_width"]) == 2
    assert run(tmp_path, "--allow_unknown=[my_key, teacher.my_width]", **named)["kd"] == "RCEKD"


def test_a_broken_config_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.yaml").write_text("epochs: [1\nseed: 2\n")
    assert main([*words(tmp_path), f"--config_files={tmp_path / 'bad.yaml'}"]) == 2
    assert "bad.yaml" in sentence(capsys)


@pytest.mark.parametrize("term", ["base loss", "KD loss"])
def test_a_loss_that_is_no_number(
    term: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = (
        "recbole_kd.model.mf.MF.calculate_loss" if term == "base loss" else "recbole_kd.distiller.rcekd.RCEKD.forward"
    )
    import importlib

    module, name, method = target.rsplit(".", 2)
    cls = getattr(importlib.import_module(module), name)
    plain, calls = getattr(cls, method), {"n": 0}

    def breaks(self: object, *args: object) -> object:
        calls["n"] += 1
        loss = plain(self, *args)
        return loss * float("nan") if calls["n"] > 5 else loss

    monkeypatch.setattr(cls, method, breaks)
    assert main(words(tmp_path, kd_compare="False")) == 2
    said = sentence(capsys)
    assert term in said and "epoch 1" in said and "learning_rate" in said
    (left,) = (tmp_path / "saved").iterdir()
    assert [path.name for path in left.iterdir()] == ["run.log"]
    assert not list((tmp_path / "cache").rglob("*.pt"))


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("--learning_rate=1e30", ["loss of MF", "epoch"]),
        ("--teacher.learning_rate=1e30", ["scores of LightGCN", "learning_rate"]),
    ],
)
def test_a_training_that_diverges(
    word: str, expected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words(tmp_path), word]) == 2
    said = sentence(capsys)
    for part in expected:
        assert part in said
    assert "kd_" not in said, "neither was distilled"
    left = {path.name for path in files_in(tmp_path) if path.suffix != ".lock"}
    teachers = {"manifest.json", "scores.safetensors", "model.safetensors", "probe.safetensors"}
    assert left <= {"run.log", *teachers}, "the finished teacher may stay, nothing else"


def test_a_teacher_whose_scores_cannot_be_kept_leaves_its_weights_for_the_next_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def refuse(*_: object) -> None:
        raise ConfigError("take teacher_dtype=fp32")

    monkeypatch.setattr(export, "rounded", refuse)
    assert main(words(tmp_path)) == 2
    assert "teacher_dtype=fp32" in sentence(capsys)
    left = [path for path in files_in(tmp_path) if path.suffix != ".lock" and "trained" not in path.parts]
    assert {path.name for path in left} == {"run.log"}
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    run(tmp_path)
    logs = sorted(path.read_text() for path in tmp_path.glob("saved/*/run.log"))
    assert sum("Training the teacher" in log for log in logs) == 1 and len(logs) == 2


def test_processes_of_a_teacher_are_no_matter_of_the_method(tmp_path: Path) -> None:
    given = [word for word in words(tmp_path, kd="DE", **{"teacher.nproc": "2"}) if not word.startswith("--kd_")]
    plan = make_plan(make_request(merge_sources(None, None, parse_arguments(given))))
    assert (plan.teachers[0]["nproc"], plan.distilled["nproc"]) == (2, 1)


def test_nan_in_a_trainer_of_recboles_own() -> None:
    class Diverges:
        saved_model_file = "NCL.pth"

        def fit(self, *_: Any, **__: Any) -> None:
            raise ValueError("Training loss is nan")

    config = {"model": "NCL", "show_progress": False}
    with pytest.raises(TrainingError, match="loss of NCL is nan"):
        TrainingJob(config, None, TrainingFiles.in_folder(Path(), Path())).fit(Diverges(), Loaders(None, None, None))  # type: ignore[arg-type]


def test_damaged_and_foreign_teachers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(run(tmp_path, kd_compare="False")["teacher"]["path"])
    saved: dict[str, str | None] = {
        "teacher": None,
        "teacher_path": str(path),
        "teacher.epochs": None,
        "teacher.embedding_size": None,
    }
    capsys.readouterr()
    assert main(words(tmp_path, **{**saved, "eval_args.order": "RO"})) == 2
    said = sentence(capsys)
    assert "made on other data" in said and "split" in said

    write_tiny(tmp_path / "data", "other", n_users=20)
    assert main(words(tmp_path, **{**saved, "dataset": "other"})) == 2
    assert "made on other data" in sentence(capsys)

    scores = path / "scores.safetensors"
    scores.write_bytes(scores.read_bytes()[:-100])
    assert main(words(tmp_path, **saved)) == 2
    assert "scores.safetensors" in sentence(capsys)


@pytest.mark.parametrize("teacher", ["LightGCN", "EASE"])
def test_a_user_of_all_items(
    teacher: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write_tiny(tmp_path / "data", "tiny")
    changes: dict[str, str | None] = {
        "teacher": teacher,
        **({"teacher.embedding_size": None} if teacher == "EASE" else {}),
    }
    with (Path(file.data_path) / "tiny" / "tiny.inter").open("a", encoding="utf-8") as rows:
        rows.writelines(f"all\ti{item}\t{item}\n" for item in range(40))
    assert main(words(tmp_path, **changes)) == 2
    said = sentence(capsys)
    assert "'all'" in said and "all 40 items" in said and "--user_inter_num_interval=[0,39]" in said
    assert files_in(tmp_path) == []
    run(tmp_path, "--user_inter_num_interval=[0,39]", kd_compare="False", **changes)


LOADED = "{inter: [user_id, item_id, timestamp], item: [item_id, title]}"
TITLES = "item_id:token\ttitle:token_seq\n" + "".join(f"i{item}\tthe caf\u00e9 {item}\n" for item in range(40))
DATA_CASES: dict[str, tuple[str, str, dict[str, str | None], list[str]]] = {
    # id: (in the file, what takes its place, keys, what the sentence must hold)
    "no-user": ("user_id:", "uid:", {}, ["tiny.inter", "user_id", "uid, item_id, timestamp", "--USER_ID_FIELD"]),
    "no-item": ("item_id:", "iid:", {"load_col": None}, ["tiny.inter", "item_id", "--ITEM_ID_FIELD"]),
    "byte-order-mark": ("user_id:", "\ufeffuser_id:", {}, ["tiny.inter", "byte order mark", "--encoding=utf-8-sig"]),
    "no-types": (":token", "", {}, ["tiny.inter", "user_id", "name:type"]),
    "separator": ("\t", ",", {}, ["tiny.inter", "field_separator"]),
    "not-utf-8": ("u3\t", "\u00e9\t", {}, ["tiny.inter", "0xe9", "--encoding"]),
    "absent-column": (
        "",
        "",
        {"load_col": "{inter: [user_id, item_id, tmestamp]}"},
        ["load_col", "tmestamp", "user_id, item_id, timestamp"],
    ),
    "load-no-item": ("", "", {"load_col": "{inter: [user_id, timestamp]}"}, ["load_col", "item_id", "add it"]),
    "load-text": ("", "", {"load_col": "{inter: user_id}"}, ["load_col.inter='user_id'", "list"]),
    "unload-item": ("", "", {"load_col": "null", "unload_col": "{inter: [item_id]}"}, ["unload_col", "item_id"]),
    "two-parts": (
        "",
        "",
        {"benchmark_filename": "[train, test]"},
        ["benchmark_filename=['train', 'test']", "3", "[train, valid, test]"],
    ),
    "items-not-utf-8": ("", "", {"load_col": LOADED}, ["tiny.item", "0xe9", "--encoding"]),
    "texts-not-utf-8": ("", "", {"teacher": "BM3"}, ["tiny.item", "0xe9", "--encoding"]),
}


@pytest.mark.parametrize("case", DATA_CASES)
def test_files_of_a_data_set(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    old, new, changes, expected = DATA_CASES[case]
    file = Path(write_tiny(tmp_path / "data", "tiny").data_path) / "tiny" / "tiny.inter"
    encoding = "latin-1" if case == "not-utf-8" else "utf-8"
    content = file.read_text(encoding="utf-8")
    file.write_text(content.replace(old, new) if old else content, encoding=encoding)
    file.with_suffix(".item").write_text(TITLES, encoding="latin-1")
    assert main(words(tmp_path, **changes)) == 2
    said = sentence(capsys)
    for word in expected:
        assert word in said
    assert files_in(tmp_path) == []


def test_a_byte_order_mark_may_be_named(tmp_path: Path) -> None:
    file = Path(write_tiny(tmp_path / "data", "tiny").data_path) / "tiny" / "tiny.inter"
    file.write_text(file.read_text(encoding="utf-8"), encoding="utf-8-sig")
    run(tmp_path, "--encoding=utf-8-sig", kd_compare="False")
