"""Teachers on disk come back unchanged; a damaged one or one of other data is refused.

Nothing in a file is run.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.data import create_dataset
from recbole.trainer import Trainer
from recbole.utils import init_seed
from safetensors.torch import save_file
from torch import Tensor, nn

import recbole_kd
from recbole_kd.config.schema import TEACHER_STORES
from recbole_kd.data.split_and_loaders import split_data
from recbole_kd.data.train_items import train_items
from recbole_kd.errors import ConfigError, DataError, TargetError, TeacherError
from recbole_kd.pipeline.training_entries import settings_of
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.storage.files import (
    FORMAT,
    MANIFEST,
    SCORES,
    WEIGHTS,
    read_tensors,
    write_json,
    written_whole,
)
from recbole_kd.teacher import export
from recbole_kd.teacher.base import TeacherScores
from recbole_kd.teacher.block_writer import Layout, write_blocks
from recbole_kd.teacher.convert import write_dense, write_truncated
from recbole_kd.teacher.export import export_teacher
from recbole_kd.teacher.load import load_teacher
from tests.support.helpers import Case, TinyData, build_case, build_config, write_tiny

MODELS = ("LightGCN", "MF", "NeuMF", "MultiVAE", "EASE")
KINDS = tuple(store for store in TEACHER_STORES if store != "auto")
REFUSED = {
    **{("factors", model): "not a dot product" for model in ("NeuMF", "MultiVAE", "EASE")},
    ("online", "EASE"): "not in its weights",
}
KEPT = [(store, model) for store in KINDS for model in MODELS if (store, model) not in REFUSED]


@pytest.fixture(scope="module")
def cases(tiny_dataset: TinyData) -> Callable[[str], Case]:
    """Models with scores that differ clearly, each made once."""
    made: dict[str, Case] = {}

    def get(name: str) -> Case:
        if name not in made:
            made[name] = build_case(tiny_dataset, name)
            torch.manual_seed(3)
            for parameter in made[name].model.parameters():
                if parameter.dim() > 1:
                    nn.init.normal_(parameter, std=0.5)
        return made[name]

    return get


def manifest_of(case: Case) -> dict[str, Any]:
    return {
        "model": case.config["model"],
        "dataset": case.config["dataset"],
        "settings": settings_of(case.config),
        "data": case.splits.fingerprint,
        "report": {},
    }


def exported(case: Case, folder: Path, store: str = "auto", dtype: str = "fp32") -> Path:
    export_teacher(Scorer(case.model), folder, manifest_of(case), store, dtype)
    return folder


def one_sentence(message: str) -> bool:
    return "\n" not in message and len(message) > 30 and "Traceback" not in message


def subclasses(kind: type) -> Iterator[type]:
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


# -- the contract -----------------------------------------------------------------------------------------------------


def test_every_store_is_under_contract() -> None:
    own = [
        kind
        for kind in subclasses(TeacherScores)
        if kind.__module__.startswith("recbole_kd.") and not kind.__name__.startswith("_")
    ]
    assert {kind.store for kind in own} - {"several", "mapped"} == {*KINDS, "lists"}, (
        "several teachers have no scores in common, a mapped one is another's"
    )


@pytest.mark.parametrize(("store", "name"), KEPT)
def test_what_goes_in_comes_out(cases: Callable[[str], Case], tmp_path: Path, store: str, name: str) -> None:
    case = cases(name)
    scorer = Scorer(case.model)
    teacher = load_teacher(exported(case, tmp_path / "teacher", store), case.loaders.train)
    queries, exclude = torch.arange(scorer.n_queries), train_items(case.loaders.train)
    with scorer.frozen():
        expected = scorer.full(queries)
    items = torch.randint(0, scorer.n_items, (scorer.n_queries, 9))

    assert (teacher.store, teacher.name) == (store, name)
    assert (teacher.n_queries, teacher.n_items) == expected.shape
    full, at = teacher.full(queries), teacher.at(queries, items)
    torch.testing.assert_close(full, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(at, expected.gather(1, items), rtol=1e-6, atol=1e-6)
    for scores in (full, at):
        assert scores.dtype == torch.float32
        assert not scores.requires_grad
    for excluded in (None, exclude):
        ids, values = teacher.top_k(queries, 10, excluded)
        true_ids, true_values = scorer.top_k(queries, 10, excluded)
        assert torch.equal(ids, true_ids)
        torch.testing.assert_close(values, true_values, rtol=1e-6, atol=1e-6)
    # asking changes nothing: the pad is masked in a copy, not in the store
    torch.testing.assert_close(teacher.full(queries), expected, rtol=1e-6, atol=1e-6)
    vectors = teacher.embeddings()
    if vectors is not None:
        torch.testing.assert_close(vectors[0] @ vectors[1].T, expected, rtol=1e-5, atol=1e-6)
    assert (vectors is None) == (store == "dense" or not scorer.has_vectors)


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_a_dense_store_from_factors_is_that_of_the_model(
    cases: Callable[[str], Case], tmp_path: Path, dtype: str
) -> None:
    case = cases("LightGCN")
    factors = load_teacher(exported(case, tmp_path / "factors", "factors"), case.loaders.train)
    write_dense(factors, tmp_path / "converted", dtype)
    converted = load_teacher(tmp_path / "converted", case.loaders.train)
    own = load_teacher(exported(case, tmp_path / "dense", "dense", dtype), case.loaders.train)
    assert converted.store == "dense" and converted.manifest == own.manifest
    queries = torch.arange(own.n_queries)
    torch.testing.assert_close(
        converted.full(queries), own.full(queries), rtol=1e-6 if dtype == "fp32" else 1e-3, atol=1e-6
    )


def test_a_dense_store_has_no_trajectory(cases: Callable[[str], Case], tmp_path: Path) -> None:
    case = cases("LightGCN")
    factors = load_teacher(exported(case, tmp_path / "factors", "factors"), case.loaders.train)
    factors.manifest["trajectory"] = [1, 2]
    write_dense(factors, tmp_path / "converted")
    assert load_teacher(tmp_path / "converted", case.loaders.train).earlier is None


@pytest.mark.parametrize("way", ["factors", "dense", "from factors", "truncated"])
def test_what_fp16_cannot_hold_is_refused(cases: Callable[[str], Case], tmp_path: Path, way: str) -> None:
    model = copy.deepcopy(cases("LightGCN").model)
    with torch.no_grad():
        model.user_embedding.weight.mul_(1e6)
        model.item_embedding.weight.mul_(1e6)
    case = replace(cases("LightGCN"), model=model)
    with pytest.raises(ConfigError, match=r"teacher_dtype=fp16 cannot hold .* take teacher_dtype=fp32"):
        if way in ("factors", "dense"):
            exported(case, tmp_path / "teacher", way, "fp16")
        else:
            factors = load_teacher(exported(case, tmp_path / "full", "factors"), case.loaders.train)
            make = partial(write_truncated, width=2) if way == "truncated" else write_dense
            make(factors, tmp_path / "teacher", dtype="fp16")
    assert not (tmp_path / "teacher" / MANIFEST).exists()


@pytest.mark.parametrize(("store", "name"), REFUSED)
def test_a_store_that_cannot_hold_a_model_says_so(
    cases: Callable[[str], Case], tmp_path: Path, store: str, name: str
) -> None:
    with pytest.raises(ConfigError, match=REFUSED[store, name]) as error:
        exported(cases(name), tmp_path / "teacher", store)
    assert one_sentence(str(error.value))
    assert "teacher_store=dense" in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "store"), [("MF", "factors"), ("LightGCN", "factors"), ("NeuMF", "dense"), ("EASE", "dense")]
)
def test_auto_is_the_smallest_exact_store(cases: Callable[[str], Case], tmp_path: Path, name: str, store: str) -> None:
    teacher = load_teacher(exported(cases(name), tmp_path / "teacher"), cases(name).loaders.train)
    assert teacher.store == teacher.manifest["store"] == store


@pytest.mark.parametrize(("store", "name"), [("factors", "LightGCN"), ("dense", "LightGCN"), ("dense", "MultiVAE")])
def test_fp16_records_what_it_keeps(cases: Callable[[str], Case], tmp_path: Path, store: str, name: str) -> None:
    case = cases(name)
    teacher = load_teacher(exported(case, tmp_path / "teacher", store, "fp16"), case.loaders.train)
    fidelity = teacher.manifest["fidelity"]
    assert 0.9 < fidelity["top_k_overlap"] <= 1.0
    assert fidelity["k"] == min(50, case.splits.n_items)
    scorer, queries = Scorer(case.model), torch.arange(1, 31)
    with scorer.frozen():
        torch.testing.assert_close(teacher.full(queries), scorer.full(queries), rtol=1e-2, atol=2e-2)
    full = load_teacher(exported(case, tmp_path / "full", store), case.loaders.train)
    assert "fidelity" not in full.manifest
    assert (tmp_path / "teacher" / SCORES).stat().st_size < 0.6 * (tmp_path / "full" / SCORES).stat().st_size
    vectors = teacher.embeddings()
    assert vectors is None or {v.dtype for v in vectors} == {torch.float32}


def test_fidelity_is_measured(cases: Callable[[str], Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rounding that loses the order must show in the figure."""
    case = cases("LightGCN")
    monkeypatch.setattr(export, "FIDELITY_K", 5)
    exact = torch.arange(case.model.n_items).float() + 4096.0  # fp16 has steps of 4 here
    monkeypatch.setattr(Scorer, "full", lambda self, queries: exact.expand(len(queries), -1).clone())
    export_teacher(Scorer(case.model), tmp_path / "teacher", manifest_of(case), "dense", "fp16")
    assert json.loads((tmp_path / "teacher" / MANIFEST).read_text())["fidelity"]["top_k_overlap"] < 0.9


def test_scores_are_memory_mapped(tmp_path: Path) -> None:
    shape = (2000, 4000)
    path = tmp_path / SCORES
    layout = Layout({"scores": (torch.float32, 4000)}, 2000, 500)
    write_blocks(path, layout, lambda rows: {"scores": torch.full((500, 4000), float(rows.start // 500))})
    scores = read_tensors(path)["scores"]
    mapped = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    spans = [tuple(int(end, 16) for end in fields[0].split("-")) for fields in mapped]
    assert any(start <= scores.data_ptr() < stop for start, stop in spans)
    assert tuple(scores.shape) == shape
    assert scores[::500, 0].tolist() == [0.0, 1.0, 2.0, 3.0]


def test_export_never_holds_the_matrix(
    cases: Callable[[str], Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = cases("NeuMF")
    seen: list[int] = []
    plain = Scorer.full

    def counted(self: Scorer, queries: Tensor) -> Tensor:
        seen.append(len(queries))
        return plain(self, queries)

    monkeypatch.setattr(Scorer, "full", counted)
    monkeypatch.setattr(export, "BLOCK_BYTES", 4 * 4 * case.model.n_items)
    exported(case, tmp_path / "teacher", "dense")
    assert max(seen) == 4
    assert sum(seen) == case.model.n_users


# -- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [False, True])
def test_an_error_in_the_middle_leaves_nothing(
    cases: Callable[[str], Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    case, folder = cases("NeuMF"), tmp_path / "cache" / "teacher"
    if before:
        exported(case, folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()} if before else {}
    calls = iter(range(100))
    plain = Scorer.full

    def failing(self: Scorer, queries: Tensor) -> Tensor:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return plain(self, queries)

    monkeypatch.setattr(Scorer, "full", failing)
    monkeypatch.setattr(export, "BLOCK_BYTES", 4 * 4 * case.model.n_items)
    with pytest.raises(TargetError if before else KeyboardInterrupt):  # a finished folder is not replaced
        exported(case, folder)
    assert [path.name for path in folder.parent.iterdir()] == (["teacher"] if before else [])
    assert {path.name: path.read_bytes() for path in (folder.iterdir() if before else ())} == files


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "entry").mkdir()
    (tmp_path / "entry" / "old").touch()
    with written_whole(tmp_path / "entry", replaces=["old"]) as temporary:
        (temporary / "new").touch()
    assert [path.name for path in (tmp_path / "entry").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]


def test_json_is_written_whole(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Circular"):
        circular: dict[str, Any] = {}
        circular["self"] = circular
        write_json(tmp_path / "file.json", circular)
    assert list(tmp_path.iterdir()) == []


# -- damage -----------------------------------------------------------------------------------------------------------


class Bomb:
    """A pickle that would run a command."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


def _truncate(folder: Path) -> None:
    path = folder / SCORES
    path.write_bytes(path.read_bytes()[:-40])


def _edit(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    content.update(changes)
    (folder / MANIFEST).write_text(json.dumps({k: v for k, v in content.items() if v != "drop"}))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated scores": _truncate,
    "empty scores": lambda folder: (folder / SCORES).write_bytes(b""),
    "garbage scores": lambda folder: (folder / SCORES).write_bytes(b"\x93NUMPY" * 40),
    "huge header": lambda folder: (folder / SCORES).write_bytes(b"\xff" * 64),
    "no scores": lambda folder: (folder / SCORES).unlink(),
    "no manifest": lambda folder: (folder / MANIFEST).unlink(),
    "garbage manifest": lambda folder: (folder / MANIFEST).write_text("{not json"),
    "binary manifest": lambda folder: (folder / MANIFEST).write_bytes(b"\xff\xfe\x00\x81"),
    "manifest of a list": lambda folder: (folder / MANIFEST).write_text("[1, 2]"),
    "manifest of another format": lambda folder: _edit(folder, format=FORMAT + 1),
    "manifest without store": lambda folder: _edit(folder, store="drop"),
    "manifest of an unknown store": lambda folder: _edit(folder, store="cloud"),
    "manifest without sizes": lambda folder: _edit(folder, n_items="drop"),
    "manifest with text for data": lambda folder: _edit(folder, data="none"),
    "manifest of other sizes": lambda folder: _edit(folder, n_items=7),
    "other tensors": lambda folder: save_file({"weights": torch.zeros(2, 3)}, folder / SCORES),
    "a vector of scores": lambda folder: save_file({"scores": torch.zeros(3)}, folder / SCORES),
    "whole numbers": lambda folder: save_file({"scores": torch.zeros(31, 41, dtype=torch.int64)}, folder / SCORES),
    "vectors that do not match": lambda folder: save_file(
        {"query_vectors": torch.zeros(31, 4), "item_vectors": torch.zeros(41, 5)}, folder / SCORES
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_teacher_is_refused(cases: Callable[[str], Case], tmp_path: Path, damage: str) -> None:
    case = cases("MF")
    folder = exported(case, tmp_path / "teacher", "dense")
    DAMAGE[damage](folder)
    with pytest.raises(TeacherError) as error:
        load_teacher(folder, case.loaders.train)
    assert one_sentence(str(error.value)), error.value


def test_a_missing_teacher_is_refused(cases: Callable[[str], Case], tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path / "nowhere.pth"):
        with pytest.raises(TeacherError, match="--teacher_path") as error:
            load_teacher(path, cases("MF").loaders.train)
        assert one_sentence(str(error.value))


@pytest.mark.parametrize("missing", ["model", "settings", "dataset"])
def test_an_online_teacher_needs_its_settings(cases: Callable[[str], Case], tmp_path: Path, missing: str) -> None:
    case = cases("NeuMF")
    folder = exported(case, tmp_path / "teacher", "online")
    _edit(folder, **{missing: "drop"})
    with pytest.raises(TeacherError, match=missing):
        load_teacher(folder, case.loaders.train)


def test_an_online_teacher_of_other_weights_is_refused(cases: Callable[[str], Case], tmp_path: Path) -> None:
    case = cases("MF")
    folder = exported(case, tmp_path / "teacher", "online")
    save_file({"user_embedding.weight": torch.zeros(3, 2)}, folder / WEIGHTS)
    with pytest.raises(TeacherError, match="damaged"):
        load_teacher(folder, case.loaders.train)
    _edit(folder, files="drop", sha256="drop")  # as an earlier version wrote it, without digests
    with pytest.raises(TeacherError, match="does not fit") as error:
        load_teacher(folder, case.loaders.train)
    assert one_sentence(str(error.value))


@pytest.mark.parametrize("way", ["scores", "weights", "plain.pth", "archive.pth"])
def test_a_pickle_is_never_run(cases: Callable[[str], Case], tmp_path: Path, way: str) -> None:
    case, mark = cases("MF"), tmp_path / "mark"
    payload = pickle.dumps({"scores": Bomb(mark), "config": Bomb(mark), "state_dict": {}})
    target = exported(case, tmp_path / "teacher", "online" if way == "weights" else "dense")
    if way == "scores":
        (target / SCORES).write_bytes(payload)
    elif way == "weights":
        (target / WEIGHTS).write_bytes(payload)
    elif way == "plain.pth":
        target = tmp_path / "teacher.pth"
        target.write_bytes(payload)
    else:
        target = tmp_path / "teacher.pth"
        torch.save({"config": Bomb(mark), "state_dict": {}}, target)
        assert zipfile.is_zipfile(target)
    with pytest.raises(TeacherError) as error:
        load_teacher(target, case.loaders.train)
    assert one_sentence(str(error.value))
    assert not mark.exists()
    pickle.loads(payload)  # the bomb is a real one
    assert mark.exists()


# -- RecBole's checkpoints --------------------------------------------------------------------------------------------


def checkpoint_of(case: Case, folder: Path) -> Path:
    case.config["checkpoint_dir"] = str(folder)
    trainer = Trainer(case.config, case.model)
    trainer.fit(case.loaders.train, case.loaders.valid, show_progress=False)
    trainer.evaluate(case.loaders.test, show_progress=False)
    return Path(trainer.saved_model_file)


@pytest.mark.parametrize("name", ["BPR", "LightGCN", "NeuMF"])
def test_a_recbole_checkpoint_is_a_teacher(tiny_dataset: TinyData, tmp_path: Path, name: str) -> None:
    case = build_case(tiny_dataset, name)
    path = checkpoint_of(case, tmp_path)
    student = build_case(tiny_dataset, "MF")
    teacher = load_teacher(path, student.loaders.train)
    scorer, queries = Scorer(case.model), torch.arange(1, 31)
    expected = scorer.top_k(queries, 10)
    ids, values = teacher.top_k(queries, 10)
    assert torch.equal(ids, expected[0])
    torch.testing.assert_close(values, expected[1], rtol=1e-6, atol=1e-6)
    assert (teacher.name, teacher.store) == (name, "online")


def test_a_checkpoint_of_another_split_is_refused(tiny_dataset: TinyData, tmp_path: Path) -> None:
    random_order = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "full"}
    path = checkpoint_of(build_case(tiny_dataset, "BPR", eval_args=random_order), tmp_path)
    with pytest.raises(TeacherError, match="eval_args"):
        load_teacher(path, build_case(tiny_dataset, "MF").loaders.train)
    load_teacher(path, build_case(tiny_dataset, "MF", eval_args=random_order).loaders.train)
    with pytest.raises(TeacherError, match="random split of seed") as error:
        load_teacher(path, build_case(tiny_dataset, "MF", eval_args=random_order, split_seed=5).loaders.train)
    assert one_sentence(str(error.value))


@pytest.mark.parametrize("content", [{}, {"config": {}, "state_dict": {}}, {"state_dict": {}}])
def test_a_torch_file_that_is_no_checkpoint_is_refused(
    cases: Callable[[str], Case], tmp_path: Path, content: dict[str, Any]
) -> None:
    torch.save(content, tmp_path / "teacher.pth")
    with pytest.raises(TeacherError, match="not a checkpoint") as error:
        load_teacher(tmp_path / "teacher.pth", cases("MF").loaders.train)
    assert one_sentence(str(error.value))


# -- is it this data? -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", KINDS)
def test_loader_and_training_data_are_accepted(cases: Callable[[str], Case], tmp_path: Path, store: str) -> None:
    case = cases("LightGCN")
    folder = exported(case, tmp_path / "teacher", store)
    expected = load_teacher(folder, case.loaders.train).full(torch.arange(31))
    assert torch.equal(load_teacher(str(folder), case.splits.parts[0]).full(torch.arange(31)), expected)


@pytest.mark.parametrize("store", ["factors", "dense"])
def test_the_data_before_the_split_is_accepted(cases: Callable[[str], Case], tmp_path: Path, store: str) -> None:
    case = cases("LightGCN")
    folder = exported(case, tmp_path / "teacher", store)
    expected = load_teacher(folder, case.loaders.train).full(torch.arange(31))
    for dataset in (case.splits.dataset, create_dataset(case.config)):  # split already, and fresh
        assert torch.equal(load_teacher(folder, dataset).full(torch.arange(31)), expected)


def test_an_online_teacher_needs_the_training_part(cases: Callable[[str], Case], tmp_path: Path) -> None:
    """Its graph would hold validation and test edges: other scores, and better ones than it deserves."""
    case = cases("LightGCN")
    folder = exported(case, tmp_path / "teacher", "online")
    with pytest.raises(TeacherError, match="its train are"):
        load_teacher(folder, case.splits.dataset)


def other_split(data: TinyData, folder: Path) -> Any:
    eval_args = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "full"}
    return build_config(data, "MF", eval_args=eval_args)


def other_seed(data: TinyData, folder: Path) -> Any:
    config = other_split(data, folder)
    config["split_seed"] = 7
    return config


def other_filter(data: TinyData, folder: Path) -> Any:
    return build_config(data, "MF", item_inter_num_interval="[11,inf)")


def other_values(data: TinyData, folder: Path) -> Any:
    return build_config(data, "MF", val_interval={"timestamp": "[0,2000]"})


def other_data(data: TinyData, folder: Path) -> Any:
    return build_config(write_tiny(folder / "other", data.name, n_users=29), "MF")


def other_names(data: TinyData, folder: Path) -> Any:
    return build_config(write_tiny(folder / "renamed", data.name, prefix="x"), "MF")


CHANGES: dict[Callable[[TinyData, Path], Any], tuple[str, str]] = {
    other_split: ("train", "the split differs"),
    other_filter: ("items", "item_inter_num_interval"),
    other_values: ("users", "the filtering of the data"),
    other_data: ("users", "the file itself differs"),
    other_names: ("users", "the file itself differs"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_data_is_refused(
    cases: Callable[[str], Case], tiny_dataset: TinyData, tmp_path: Path, change: Callable[[TinyData, Path], Any]
) -> None:
    case = cases("MF")
    folder = exported(case, tmp_path / "teacher")
    splits = split_data(change(tiny_dataset, tmp_path))
    part, cause = CHANGES[change]
    targets = [splits.parts[0], *([splits.dataset] if part != "train" else [])]
    teacher = load_teacher(folder, case.loaders.train)
    for attempt in [
        *(lambda t=target: load_teacher(folder, t) for target in targets),
        lambda: teacher.check_data(splits.fingerprint),
    ]:
        with pytest.raises(TeacherError) as error:
            attempt()
        message = str(error.value)
        assert one_sentence(message)
        if attempt.__defaults__ is None or part != "train":
            assert f"its {part} are" in message
            assert cause in message
            own, here = case.splits.fingerprint[part], splits.fingerprint[part]
            assert str(own) in message
            assert str(here) in message


def test_the_seed_of_a_random_split_counts(tiny_dataset: TinyData, tmp_path: Path) -> None:
    prints = [split_data(make(tiny_dataset, tmp_path)).fingerprint for make in (other_split, other_split, other_seed)]
    assert prints[0] == prints[1]
    assert prints[0]["train"] != prints[2]["train"]
    assert prints[0]["interactions"] == prints[2]["interactions"]


def test_the_seed_of_the_student_does_not_move_the_split(tiny_dataset: TinyData, tmp_path: Path) -> None:
    init_seed(11, True)
    config = other_split(tiny_dataset, tmp_path)
    config["seed"] = 99
    assert split_data(config).fingerprint == split_data(other_split(tiny_dataset, tmp_path)).fingerprint


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"item_inter_num_interval": "[99,inf)"}, "filtering"),
        ({"load_col": {"inter": ["user_id", "item_id"]}}, "timestamp.*load_col"),
    ],
)
def test_data_that_recbole_refuses_is_one_sentence(tiny_dataset: TinyData, given: dict[str, Any], words: str) -> None:
    with pytest.raises(recbole_kd.KDError, match=words) as error:
        split_data(build_config(tiny_dataset, "MF", **given))
    assert one_sentence(str(error.value))


def test_a_split_without_validation_is_refused(tiny_dataset: TinyData) -> None:
    eval_args = {"split": {"RS": [1.0, 0.0, 0.0]}, "order": "TO", "group_by": "user", "mode": "full"}
    with pytest.raises(DataError, match="no validation interactions"):
        split_data(build_config(tiny_dataset, "MF", eval_args=eval_args))


def test_the_front_door_is_the_same_function() -> None:
    assert recbole_kd.load_teacher is load_teacher
