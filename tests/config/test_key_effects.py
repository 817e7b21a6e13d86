"""Every key of a run has the effect that its name promises, or is refused.

So does every key of RecBole that the README names.

A change of the Config alone is no effect: compared are weights, metrics, files and what a finished run reports.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from recbole_kd.config.known_keys import RECBOLE_KEYS
from recbole_kd.config.merging import merge_sources
from recbole_kd.config.parsing import parse_arguments
from recbole_kd.config.schema import RUN_KEYS
from recbole_kd.data.split_and_loaders import split_data
from recbole_kd.errors import KDError
from recbole_kd.pipeline.plan import make_plan
from recbole_kd.pipeline.quick_start import run_request
from recbole_kd.pipeline.request import Request, make_request
from recbole_kd.training.training_job import TrainingFiles, TrainingJob
from tests.support import paths
from tests.support.helpers import write_tiny
from tests.support.runs import words

Outcome = dict[str, Any]

ONLY_SHOWN = {"show_progress", "state"}
"""Keys that change what is shown, and nothing else."""

SAME_RESULT = {"nproc", "ray_address", "teacher_ray_address", "resume", "download", "kd_compile"}
"""Keys that change where and how a run is computed, to the same result.

Their tests are in tests/distributed/test_ddp.py, tests/teacher/test_ray_export.py,
tests/training/test_resume.py, tests/data/test_downloads.py and
tests/training/test_compiled_loss.py. That of ray_address is in tests/distributed/test_ray_training.py."""


class Case(NamedTuple):
    """A key's value, what it changes in the outcome of a run, and the settings under which it does."""

    value: str
    changes: str
    under: tuple[str, ...] = ()


CASES: dict[str, Case] = {
    "model": Case("BPR", "weights"),
    "teacher": Case("BPR", "teacher"),
    "kd": Case("RRD", "weights"),
    "dataset": Case("other", "weights"),
    "setting": Case("general", "weights", ("--model=HSTU", "--eval_args.order=")),
    "teacher_store": Case("dense", "teacher"),
    "teacher_dtype": Case("fp16", "teacher"),
    "teacher_svd": Case("3", "teacher"),
    "kd_compare": Case("True", "student"),
    "kd_weight": Case("50", "weights"),
    "kd_weight_scale": Case("rows", "weights", ("--kd=RRD",)),
    "kd_track": Case("[train_ndcg, teacher_ranks, bound]", "reported"),
    "kd_refresh": Case("2", "weights", ("--epochs=3",)),
    "kd_candidate_index": Case("ivf", "index"),
    "kd_index_teacher": Case("True", "index", ("--kd_candidate_index=ivf",)),
    "kd_nlist": Case("3", "index", ("--kd_candidate_index=ivf",)),
    "kd_nprobe": Case("1", "index", ("--kd_candidate_index=ivf",)),
    "eval_protocol": Case("paper", "test"),
    "loss_reduction": Case("mean", "weights"),
    "init_std": Case("0.5", "weights"),
    "split_seed": Case("7", "weights", ("--eval_args.order=RO",)),
    "time_order": Case("recbole", "weights", ("--dataset=late",)),
    "train_by_user": Case(
        "True", "weights", ("--model=GRU4Rec", "--embedding_size=", "--hidden_size=4", "--eval_args.order=")
    ),
    "teacher.train_by_user": Case(
        "True", "teacher", ("--model=GRU4Rec", "--teacher=GRU4Rec", "--embedding_size=", "--eval_args.order=")
    ),
    "max_minutes": Case("1e-9", "reported", ("--epochs=3",)),
    "cache_dir": Case("elsewhere", "teacher"),
    "output_dir": Case("elsewhere", "folder"),
    # RecBole's
    "seed": Case("3", "weights"),
    "epochs": Case("2", "weights"),
    "learning_rate": Case("0.1", "weights"),
    "weight_decay": Case("0.5", "weights"),
    "train_batch_size": Case("16", "weights"),
    "train_neg_sample_args": Case("{sample_num: 3}", "weights"),
    "embedding_size": Case("3", "weights"),
    "eval_args": Case("{split: {RS: [0.6, 0.2, 0.2]}}", "weights"),
    "stopping_step": Case("0", "reported", ("--epochs=40",)),
    "eval_step": Case("3", "reported", ("--epochs=40", "--stopping_step=0")),
    "user_inter_num_interval": Case("[15,inf)", "weights"),
    "val_interval": Case("{timestamp: '[3,inf)'}", "weights"),
    "topk": Case("[10]", "test"),
    "valid_metric": Case("Recall@10", "reported"),
    "TIME_FIELD": Case("when", "refused"),
    "data_path": Case("more", "weights"),
    "encoding": Case("utf-16", "refused"),
    "load_col": Case("{inter: [user_id, item_id, timestamp, rating]}", "teacher", ("--dataset=rated",)),
    "normalize_all": Case(
        "False", "teacher", ("--dataset=rated", "--load_col={inter: [user_id, item_id, timestamp, rating]}")
    ),
    "MAX_ITEM_LIST_LENGTH": Case(
        "3", "weights", ("--model=GRU4Rec", "--embedding_size=", "--hidden_size=4", "--eval_args.order=")
    ),
    "loss_type": Case(
        "BPR", "weights", ("--model=GRU4Rec", "--embedding_size=", "--hidden_size=4", "--eval_args.order=")
    ),
}
"""Key -> what it does in a run. Of the rest: see the other tests of this file."""

OTHERWISE = {
    "teacher_path",
    "teacher_unlisted",
    "init_from",
    "numerical_features",
    "allow_unknown",
    "text_encoder",
    "item_features",
    "eval_memory_mb",
    "config_files",
    "log_wandb",
    "wandb_project",
}
"""Keys with a test of their own: below, of the last two in tests/training/test_scalars.py, of numerical_features in
tests/teacher/test_side_teachers.py."""

NOT_HERE = {
    "k",
    "port",
    "gpu_id",
    "use_gpu",
    "rm_dup_inter",
    "item_inter_num_interval",
    "metrics",
    "rank",
    "temperature",
}
"""Words of other commands, keys that need a GPU, and two with tests in tests/data."""

CACHES = {"save_dataset", "save_dataloaders"}
"""RecBole's pickled caches, which are refused."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the data sets tiny, other (fewer users), rated and late (seconds since 1970).

    All runs share its cache.
    """
    folder = tmp_path_factory.mktemp("effects")
    write_tiny(folder / "data", "tiny")
    write_tiny(folder / "data", "other", n_users=25)
    write_tiny(folder / "more", "tiny", n_items=36)
    plain = Path(write_tiny(folder / "data", "rated").data_path) / "rated" / "rated.inter"
    head, *rows = plain.read_text(encoding="utf-8").splitlines()
    rated = [f"{head}\trating:float", *(f"{row}\t{number % 5}" for number, row in enumerate(rows))]
    plain.write_text("\n".join(rated) + "\n", encoding="utf-8")
    late = [head, *("\t".join((*row.split("\t")[:2], str(1_600_000_000 + int(row.split("\t")[2])))) for row in rows)]
    (folder / "data" / "late").mkdir()
    (folder / "data" / "late" / "late.inter").write_text("\n".join(late) + "\n", encoding="utf-8")
    return folder


def outcome(folder: Path, *given: str) -> Outcome:
    """What a run of one epoch comes to, with some words changed or (``--key=``) left out.

    The same words are run once.
    """
    if given not in _known:
        _known[given] = _run(folder, *given)
    return _known[given]


_known: dict[tuple[str, ...], Outcome] = {}
_folders: dict[tuple[str, ...], Path] = {}
"""The folder of the run of these words."""


def request_of(folder: Path, *given: str) -> Request:
    base: dict[str, str | None] = {"epochs": "1", "teacher.epochs": "1", "kd_compare": "False"}
    for word in given:
        key, _, value = word.removeprefix("--").partition("=")
        base[key] = value or None
    return make_request(merge_sources(None, None, parse_arguments(words(folder, **base))))


def _run(folder: Path, *given: str) -> Outcome:
    try:
        result = run_request(request_of(folder, *given))
    except KDError as error:
        return {"refused": str(error)}
    distilled, where = result["distilled"], Path(result["folder"])
    _folders[given] = where
    (checkpoint,) = where.glob("*.pth")
    weights = torch.load(checkpoint, weights_only=False)["state_dict"]
    return {
        "weights": hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in weights.values())).hexdigest(),
        "test": distilled["test"],
        "teacher": result["teacher"]["path"],
        "student": result["student"] is not None,
        "index": distilled.get("candidate_index"),
        "reported": (sorted(distilled), distilled.get("stopped_by"), len(distilled["kd_loss"]), result["valid_metric"]),
        "folder": where.parent,
    }


def named_in_the_documentation() -> set[str]:
    """Keys of RecBole that README and pages write as code: ``--key=``, ``key:`` or `key`."""
    guides = {*(paths.ROOT / "docs").glob("*.md")} - {
        paths.ROOT / "docs" / name for name in ("options.md", "models.md")
    }
    pages = [paths.ROOT / "README.md", *sorted(guides)]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    code = re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL)
    names = {
        name
        for part in code
        for name in re.findall(r"(?:--|[ {`\n]|teacher\.)([A-Za-z_]\w*)(?:\.\w+)?(?:=|: |`)", part)
    }
    return (names & RECBOLE_KEYS) - NOT_HERE


def test_every_key_has_its_case() -> None:
    cases = {*CASES, *OTHERWISE, *ONLY_SHOWN, *SAME_RESULT, *CACHES}
    assert {*RUN_KEYS, *named_in_the_documentation()} <= cases


@pytest.mark.parametrize("key", CASES)
def test_a_key_changes_what_it_promises(key: str, place: Path) -> None:
    case = CASES[key]
    value = str(place / case.value) if key in ("cache_dir", "output_dir", "data_path") else case.value
    changed = outcome(place, *case.under, f"--{key}={value}")
    if case.changes == "refused":
        assert "refused" in changed
        return
    base = outcome(place, *case.under)
    assert "refused" not in base and "refused" not in changed, (base, changed)
    assert base[case.changes] != changed[case.changes]


def test_the_same_words_come_to_the_same(place: Path) -> None:
    assert {**_run(place), "folder": None} == {**outcome(place), "folder": None}


@pytest.mark.parametrize("key", sorted(ONLY_SHOWN))
def test_a_key_that_is_only_shown_changes_nothing_else(key: str, place: Path) -> None:
    value = {"show_progress": "True", "state": "ERROR"}[key]
    assert outcome(place, f"--{key}={value}") == outcome(place)


def test_a_saved_teacher_is_the_one_that_teaches(place: Path) -> None:
    path = outcome(place)["teacher"]
    saved = outcome(place, "--teacher=", "--teacher.epochs=", "--teacher.embedding_size=", f"--teacher_path={path}")
    assert saved["teacher"] == path and saved["weights"] == outcome(place)["weights"]


def test_items_outside_a_teachers_lists_are_left_out_if_asked(place: Path) -> None:
    lists = place / "lists.csv"
    rows = [f"u{user},i{(user + 7 * n) % 40},{n}" for user in range(30) for n in range(6)]
    lists.write_text("\n".join(["user,item,rank", *rows]), encoding="utf-8")
    given = ("--teacher=", "--teacher.epochs=", "--teacher.embedding_size=", f"--teacher_path={lists}")
    without = ("--kd_n_samples=", "--kd_candidates=")
    weights = [outcome(place, *given, *more)["weights"] for more in ((), ("--teacher_unlisted=mask",))]
    assert weights[0] != weights[1]
    assert outcome(place, *given, "--teacher_unlisted=floor")["weights"] == weights[0]
    assert "has no effect on LightGCN" in outcome(place, "--teacher_unlisted=mask")["refused"]
    assert "has no effect" in outcome(place, *given, "--teacher_unlisted=mask", "--kd=CE", *without)["refused"]


def test_a_student_starts_from_an_earlier_one(place: Path) -> None:
    """See tests/serving/test_init_from.py for its rows."""
    alone = outcome(place)["weights"]
    assert outcome(place, f"--init_from={_folders[()]}")["weights"] != alone


def test_a_file_of_keys_is_read(place: Path) -> None:
    (place / "keys.yaml").write_text("learning_rate: 0.1\n", encoding="utf-8")
    values = merge_sources(str(place / "keys.yaml"), None, {})
    assert (
        values == {"learning_rate": 0.1}
        and outcome(place, "--learning_rate=0.1")["weights"] != outcome(place)["weights"]
    )


def test_an_unknown_key_is_refused_unless_it_is_allowed(place: Path) -> None:
    assert "my_key" in outcome(place, "--my_key=3")["refused"]
    assert "refused" not in outcome(place, "--my_key=3", "--allow_unknown=my_key")


@pytest.mark.parametrize("key", sorted(CACHES))
def test_pickled_caches_are_refused(key: str, place: Path) -> None:
    assert key in outcome(place, f"--{key}=True")["refused"]


@pytest.mark.parametrize("key", ["device", "teacher.device", "MODEL_TYPE", "MODEL_INPUT_TYPE", "eval_type"])
@pytest.mark.parametrize("value", ["+1", "cpu"])
def test_keys_that_recbole_writes_over_are_refused(key: str, value: str, place: Path) -> None:
    assert f"--{key}={value.removeprefix('+')}: it has no effect" in outcome(place, f"--{key}={value}")["refused"]


@pytest.mark.parametrize(
    "word",
    [
        "world_size=2", "local_rank=0", "offset=1", "ip=host", "port=99", "single_spec=False", "verbose=False",
        "valid_metric_bigger=False", "teacher.local_rank=0", "teacher.valid_metric_bigger=False",
    ],
)  # fmt: skip
def test_keys_of_recboles_own_launcher_and_what_follows_from_the_metric_are_refused(word: str, place: Path) -> None:
    assert f"Invalid --{word}: it has no effect" in outcome(place, f"--{word}")["refused"]


@pytest.mark.parametrize(("key", "value"), [("text_encoder", "tfidf"), ("item_features", "{visual: visual.npy}")])
def test_item_features_are_refused_where_no_model_reads_them(key: str, value: str, place: Path) -> None:
    assert key in outcome(place, f"--{key}={value}")["refused"]


def test_item_features_are_part_of_what_is_kept(place: Path) -> None:
    folder = place / "data" / "tiny"
    generator = np.random.default_rng(0)
    for name in ("one", "two"):
        np.save(folder / f"{name}.npy", generator.normal(size=(40, 3)).astype(np.float32))
        (folder / f"{name}.ids").write_text("".join(f"i{item}\n" for item in range(40)), encoding="utf-8")
    (folder / "tiny.item").write_text(
        "item_id:token\ttitle:token_seq\n" + "".join(f"i{n}\ta word{n % 7}\n" for n in range(40))
    )
    of_files = [
        make_plan(request_of(place, "--teacher=BM3", f"--item_features={{visual: {n}.npy}}")).features
        for n in ("one", "two")
    ]
    of_text = make_plan(request_of(place, "--teacher=BM3", "--text_encoder=tfidf")).features
    assert of_files[0] != of_files[1] and set(of_text) != set(of_files[0])


def test_an_encoder_of_texts_is_refused_beside_files(place: Path) -> None:
    given = ("--teacher=BM3", "--text_encoder=tfidf", "--item_features={visual: one.npy}")
    assert "text_encoder" in outcome(place, *given)["refused"]


def test_the_memory_of_the_evaluation_sets_its_batches(place: Path) -> None:
    steps = []
    for megabytes in (1, 1000):
        config, _ = request_of(
            place, "--model=NeuMF", "--embedding_size=", f"--eval_memory_mb={megabytes}"
        ).student_config()
        job = TrainingJob(
            config, split_data(config), TrainingFiles(place / "best.pth", place / "scalars", place / "state.pt")
        )
        job.model_and_loaders()
        steps.append(config["eval_batch_size"])
    assert steps[0] < steps[1]
