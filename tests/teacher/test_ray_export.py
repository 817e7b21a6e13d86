"""Tables and ranked lists written block by block: resumed, bounded, shared out."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from safetensors.torch import save_file

from recbole_kd.cli.run import main
from recbole_kd.data.histories.sequence_dataset import universe_of
from recbole_kd.errors import ConfigError, TeacherError
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.storage.files import FORMAT, MANIFEST, SCORES, read_tensors, write_json
from recbole_kd.teacher import export
from recbole_kd.teacher.block_writer import BlockFile, Layout, write_blocks
from recbole_kd.teacher.convert import write_dense
from recbole_kd.teacher.export import FullRows, export_teacher
from recbole_kd.teacher.load import load_teacher
from recbole_kd.teacher.ranked_lists import ABOUT, LISTS, ListRows, export_lists
from recbole_kd.teacher.stores.factors import FactorScores
from tests.support import paths
from tests.support.helpers import TinyData, build_case
from tests.support.runs import run, words

ROOT = paths.ROOT
LAYOUT = Layout({"ids": (torch.int32, 3), "scores": (torch.float16, 2)}, 10, 4)


def block(rows: slice) -> dict[str, torch.Tensor]:
    first = torch.arange(rows.start, rows.stop).unsqueeze(1)
    return {"ids": (first * 10 + torch.arange(3)).int(), "scores": (first + torch.tensor([0.5, 0.25])).float()}


def factor_teacher(folder: Path, n_queries: int, n_items: int, width: int = 8) -> Path:
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    tables = {
        name: torch.randn(n, width, generator=generator)
        for name, n in (("query_vectors", n_queries), ("item_vectors", n_items))
    }
    save_file(tables, folder / SCORES)
    write_json(
        folder / MANIFEST,
        {"format": FORMAT, "store": "factors", "n_queries": n_queries, "n_items": n_items, "model": "MF"},
    )
    return folder


# -- tables
# -----------------------------------------------------------------------------------------------------------------


def test_two_tables_in_one_file_and_nothing_else_stays(tmp_path: Path) -> None:
    write_blocks(tmp_path / "t.safetensors", LAYOUT, block)
    tables = read_tensors(tmp_path / "t.safetensors")
    whole = block(slice(0, 10))
    assert torch.equal(tables["ids"], whole["ids"]) and torch.equal(tables["scores"], whole["scores"].half())
    assert [path.name for path in tmp_path.iterdir()] == ["t.safetensors"]


def test_an_interrupted_file_is_continued_and_one_of_something_else_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    made: list[int] = []

    def rows(some: slice, dies_at: int = 8) -> dict[str, torch.Tensor]:
        if some.start == dies_at:
            raise KeyboardInterrupt
        made.append(some.start)
        return block(some)

    with pytest.raises(KeyboardInterrupt):
        write_blocks(path, LAYOUT, rows, "a")
    assert made == [0, 4] and not path.exists()
    with pytest.raises(TeacherError, match="lacks 1 of 3 blocks"):
        BlockFile(path, LAYOUT, "a").finish()
    assert BlockFile(path, LAYOUT, "a").missing() == [2]
    write_blocks(path, LAYOUT, lambda some: rows(some, -1), "a")
    assert made == [0, 4, 8]
    assert torch.equal(read_tensors(path)["ids"], block(slice(0, 10))["ids"])
    with pytest.raises(KeyboardInterrupt):
        write_blocks(tmp_path / "u.safetensors", LAYOUT, rows, "a")
    assert BlockFile(tmp_path / "u.safetensors", LAYOUT, "b").missing() == [0, 1, 2]


def test_a_block_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"got a block of ids of \(2, 3\), not 4 x 3"):
        BlockFile(tmp_path / "t", LAYOUT).write(0, block(slice(0, 2)))


def test_a_dense_teacher_goes_on_from_its_blocks_while_its_weights_are_the_same(
    tiny_dataset: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = build_case(tiny_dataset, "NeuMF")
    monkeypatch.setattr(export, "BLOCK_BYTES", 4 * case.model.n_items * 10)  # ten queries
    asked: list[int] = []
    plain = Scorer.full

    def full(self: Scorer, queries: torch.Tensor) -> torch.Tensor:
        if len(asked) == 2:
            asked.append(-1)
            raise KeyboardInterrupt
        asked.append(int(queries[0]))
        return plain(self, queries)

    monkeypatch.setattr(Scorer, "full", full)
    (tmp_path / "work").mkdir()
    with pytest.raises(KeyboardInterrupt):
        export_teacher(Scorer(case.model), tmp_path / "a", {"model": "NeuMF"}, "dense", work=tmp_path / "work")
    export_teacher(Scorer(case.model), tmp_path / "a", {"model": "NeuMF"}, "dense", work=tmp_path / "work")
    assert asked == [0, 10, -1, 20, 30] and list((tmp_path / "work").iterdir()) == []
    export_teacher(Scorer(case.model), tmp_path / "b", {"model": "NeuMF"}, "dense")
    assert torch.equal(read_tensors(tmp_path / "a" / SCORES)["scores"], read_tensors(tmp_path / "b" / SCORES)["scores"])


# -- lists
# ------------------------------------------------------------------------------------------------------------------


def test_lists_are_the_teachers_own(tmp_path: Path) -> None:
    folder = factor_teacher(tmp_path / "teacher", 31, 41)
    found = read_tensors(export_lists(folder, tmp_path / "out", 7, step=8))
    tables = read_tensors(folder / SCORES)
    ids, scores = FactorScores(tables["query_vectors"], tables["item_vectors"]).top_k(torch.arange(1, 31), 7)
    assert torch.equal(found["ids"].long(), ids) and torch.allclose(found["scores"], scores)
    about = json.loads((tmp_path / "out" / ABOUT).read_text())
    assert (about["first_query"], about["n_queries"], about["k"]) == (1, 30, 7)
    some = read_tensors(export_lists(folder, tmp_path / "some", 7, queries=range(5, 9)))
    assert torch.equal(some["ids"], found["ids"][4:8])


def test_what_cannot_be_listed_is_one_sentence(tmp_path: Path) -> None:
    folder = factor_teacher(tmp_path / "teacher", 31, 41)
    with pytest.raises(ConfigError, match="k=41 is not possible: it must be between 1 and 40"):
        export_lists(folder, tmp_path / "out", 41)
    with pytest.raises(ConfigError, match=r"queries 1 to 99 .* are not possible: the teacher has 30"):
        export_lists(folder, tmp_path / "out", 5, queries=range(1, 99))
    with pytest.raises(TeacherError, match="No teacher at"):
        export_lists(tmp_path / "nowhere", tmp_path / "out", 5)


@pytest.mark.parametrize("changed", ["nothing", "step", "k", "queries", "teacher", "dtype"])
def test_an_export_that_is_continued_as_another_one_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    """The half-written blocks of another export are never mixed with this one's."""
    folder = factor_teacher(tmp_path / "teacher", 21, 40)
    with monkeypatch.context() as patched:
        plain, calls = BlockFile.write, iter(range(100))

        def cut(self: BlockFile, number: int, tables: Any) -> None:
            if next(calls) == 2:
                raise KeyboardInterrupt
            plain(self, number, tables)

        patched.setattr(BlockFile, "write", cut)
        with pytest.raises(KeyboardInterrupt):
            export_lists(folder, tmp_path / "out", 5, step=6)
    asked: dict[str, Any] = {
        "step": 4 if changed == "step" else 6,
        "queries": range(2, 21) if changed == "queries" else None,
    }
    k = 6 if changed == "k" else 5
    if changed in ("teacher", "dtype"):  # the same manifest, other numbers
        tables = read_tensors(folder / SCORES)
        other = {name: -table if changed == "teacher" else table.half() for name, table in tables.items()}
        del tables
        (folder / SCORES).unlink()
        save_file(other, folder / SCORES)
    made: list[int] = []
    plain_call = ListRows.__call__

    def counted(self: ListRows, rows: slice) -> Any:
        made.append(rows.start)
        return plain_call(self, rows)

    monkeypatch.setattr(ListRows, "__call__", counted)
    continued = export_lists(folder, tmp_path / "out", k, **asked)
    assert made == (
        [12, 18] if changed == "nothing" else [*range(0, 19 if changed == "queries" else 20, asked["step"])]
    )
    assert continued.read_bytes() == export_lists(folder, tmp_path / "fresh", k, **asked).read_bytes()


@pytest.mark.slow
def test_200_000_queries_and_items_stay_under_2_gb_and_resume_after_a_kill(tmp_path: Path) -> None:
    folder = factor_teacher(tmp_path / "teacher", 200_001, 200_001, width=32)
    command = [
        sys.executable,
        str(ROOT / "scripts" / "export_lists.py"),
        str(folder),
        f"--out={tmp_path / 'out'}",
        "--k=100",
        "--queries=20000",
    ]
    marks = tmp_path / "out" / f"{LISTS}.blocks"
    process = subprocess.Popen(command)
    end = time.monotonic() + 300
    while len(list(marks.glob("[0-9]*"))) < 3:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(list(marks.glob("[0-9]*")))
    assert 3 <= kept < 20 and not (tmp_path / "out" / LISTS).exists()
    layout = Layout({"ids": (torch.int32, 100), "scores": (torch.float32, 100)}, 20000, 1024)
    assert len(layout.blocks) == 20
    spoilt = layout.offsets()["ids"]  # a mark in the first block shows that it is not made again
    with open(tmp_path / "out" / f"{LISTS}.partial", "r+b") as handle:
        handle.seek(spoilt)
        handle.write((123456789).to_bytes(4, "little"))
    again = subprocess.Popen(command)
    peak_kb = os.wait4(again.pid, 0)[2].ru_maxrss
    assert not marks.exists()
    print(f"peak of the export: {peak_kb / 1024:.0f} MiB")
    assert peak_kb < 2 * 2**20
    tables, lists = read_tensors(folder / SCORES), read_tensors(tmp_path / "out" / LISTS)
    teacher = FactorScores(tables["query_vectors"], tables["item_vectors"])
    assert int(lists["ids"][0, 0]) == 123456789
    some = torch.tensor([2, 1024, 1025, 9999, 20000])
    assert torch.equal(lists["ids"][some - 1].long(), teacher.top_k(some, 100)[0])


@pytest.fixture
def two_workers() -> Iterator[None]:
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}}
    ray.init(
        num_cpus=2, object_store_memory=2**28, include_dashboard=False, log_to_driver=False, runtime_env=environment
    )
    yield
    ray.shutdown()


@pytest.mark.slow
def test_ray_workers_make_the_same_lists(tmp_path: Path, two_workers: None) -> None:
    folder = factor_teacher(tmp_path / "teacher", 3001, 2001)
    one = export_lists(folder, tmp_path / "one", 20, step=500)
    other = export_lists(folder, tmp_path / "ray", 20, step=500, ray_address="local")
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["NeuMF", "LightGCN", "SASRec"])
def test_ray_workers_make_the_same_dense_teacher(
    tiny_dataset: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_workers: None, model: str
) -> None:
    case = build_case(tiny_dataset, model)
    monkeypatch.setattr(export, "BLOCK_BYTES", 4 * case.model.n_items * 7)  # seven queries
    scorer = Scorer(case.model, universe_of(case.loaders.train))
    for name, more in (("one", {}), ("ray", {"ray_address": "local"})):
        export_teacher(scorer, tmp_path / name, {"model": model}, "dense", **more)
    one, other = (read_tensors(tmp_path / name / SCORES)["scores"] for name in ("one", "ray"))
    assert torch.equal(one, other) and one.shape == (scorer.n_queries, scorer.n_items)
    if model == "LightGCN":
        export_teacher(scorer, tmp_path / "factors", {"model": model}, "factors")
        write_dense(
            load_teacher(tmp_path / "factors", case.splits.parts[0]), tmp_path / "from factors", ray_address="local"
        )
        assert torch.allclose(read_tensors(tmp_path / "from factors" / SCORES)["scores"], one, atol=1e-6)


@pytest.mark.slow
def test_a_run_whose_dense_teacher_is_made_by_workers(tmp_path: Path, two_workers: None) -> None:
    one, other = {}, {"cache_dir": str(tmp_path / "other"), "teacher_ray_address": "local"}
    found = [run(tmp_path, teacher="NeuMF", **more) for more in (one, other)]
    assert [result["teacher"]["cached"] for result in found] == [False, False]
    assert all(found[0][stage]["valid"] == found[1][stage]["valid"] for stage in ("teacher", "distilled"))


def test_no_cluster_is_said_before_anything_is_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words(tmp_path, teacher="NeuMF"), "--teacher_ray_address=nowhere"]) == 2
    assert "ray_address='nowhere': no Ray cluster answers there" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_what_makes_blocks_can_travel(tiny_dataset: TinyData, tmp_path: Path) -> None:
    """To a worker, by pickle; there it encodes once."""
    case = build_case(tiny_dataset, "SASRec")
    scorer = Scorer(case.model, universe_of(case.loaders.train))
    rows = pickle.loads(pickle.dumps(FullRows(scorer)))
    with scorer.frozen():
        assert torch.equal(rows(slice(3, 40))["scores"], scorer.full(torch.arange(3, 40)))
    assert torch.is_grad_enabled()
    tables = {"query_vectors": torch.randn(9, 4).numpy(), "item_vectors": torch.randn(12, 4).numpy()}
    lists = pickle.loads(pickle.dumps(ListRows(tables, 1, 5)))(slice(2, 6))
    assert torch.equal(lists["ids"], ListRows(tables, 3, 5)(slice(0, 4))["ids"])
