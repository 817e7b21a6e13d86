"""One entry is made once, whoever asks; evaluation takes the memory it was given."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout

from recbole_kd.cli.run import main
from recbole_kd.data.split_and_loaders import evaluation_batch_size
from recbole_kd.storage.cache import cache_folder, locked
from recbole_kd.training import resume_state as resume_module
from tests.helpers import TinyData, build_case
from tests.runs import cut_after, run, words

SOURCE = Path(__file__).resolve().parent.parent / "recbole_kd" / "storage" / "cache.py"
# cache.py alone, without its package: a process that starts in a moment.
WORKER = """
import importlib.util, sys, time
from pathlib import Path
spec = importlib.util.spec_from_file_location("cache", {source!r})
cache = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cache)
entry, log = Path(sys.argv[1]), Path(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
with cache.locked(entry):
    if not entry.exists():
        with open(log, "a") as stream:
            stream.write("made\\n")
        time.sleep(0.3)
        entry.mkdir()
    with open(log, "a") as stream:
        stream.write("used\\n")
"""
CITEULIKE = (5_219, 25_182)


def test_two_runs_make_an_entry_once(tmp_path: Path) -> None:
    entry, log = tmp_path / "cache" / "teacher" / "entry", tmp_path / "log"
    command = [sys.executable, "-c", textwrap.dedent(WORKER).format(source=str(SOURCE)), str(entry), str(log)]
    runs = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in runs:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in runs:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in runs:
        process.communicate(timeout=30)
        assert process.returncode == 0
    assert log.read_text().split() == ["made", "used", "used"]


def test_the_lock_is_let_go_after_an_error(tmp_path: Path) -> None:
    entry = tmp_path / "entry"
    with pytest.raises(ZeroDivisionError), locked(entry):
        with pytest.raises(Timeout):
            FileLock(str(entry) + ".lock", is_singleton=False).acquire(timeout=0)
        raise ZeroDivisionError
    with locked(entry):
        pass
    assert not entry.exists()


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RECBOLE_KD_CACHE", raising=False)
    assert cache_folder(None) == Path("saved/cache")
    monkeypatch.setenv("RECBOLE_KD_CACHE", str(tmp_path))
    assert cache_folder(None) == tmp_path
    assert cache_folder("~/teachers") == Path.home() / "teachers"


@pytest.mark.parametrize("name", ["MF", "LightGCN", "MultiVAE", "EASE", "NeuMF"])
@pytest.mark.parametrize("memory_mb", [1, 16, 256])
def test_an_evaluation_batch_is_whole_users_within_the_budget(tiny_dataset: TinyData, name: str, memory_mb: int) -> None:
    model = build_case(tiny_dataset, name).model
    for n_users, n_items in (CITEULIKE, (30, 41), (10**6, 500)):
        size = evaluation_batch_size(model, n_users, n_items, memory_mb)
        assert 1 <= size <= n_users * n_items
        if name == "NeuMF":
            assert size % n_items == 0 or size < n_items
        else:
            assert size % n_items == 0
        assert 4 * size <= max(memory_mb * 2**20, 4 * n_items)


def test_citeulike_is_scored_by_hundreds(tiny_dataset: TinyData) -> None:
    size = evaluation_batch_size(build_case(tiny_dataset, "MF").model, *CITEULIKE, 256)
    assert size // CITEULIKE[1] > 100


def test_a_model_scored_row_by_row_gets_fewer_rows(tiny_dataset: TinyData) -> None:
    """Every row it scores holds the outputs of its layers as well."""
    sizes: dict[str, Any] = {name: evaluation_batch_size(build_case(tiny_dataset, name).model, *CITEULIKE, 256) for name in ("MF", "NeuMF")}
    assert 10 * sizes["NeuMF"] < 10 * sizes["MF"] / 2
    wide = build_case(tiny_dataset, "NeuMF", mlp_hidden_size=[512, 256]).model
    assert evaluation_batch_size(wide, *CITEULIKE, 256) < sizes["NeuMF"] / 4


def test_what_a_killed_process_left_of_an_entry_is_removed(tmp_path: Path) -> None:
    """By the next run that holds the entry's lock; another entry's stays."""
    made = run(tmp_path)
    entries = [path.with_suffix("") for path in (tmp_path / "cache").glob("*/*.lock")]
    assert {path.parent.name for path in entries} == {"teacher", "student", "distilled"}
    for entry in entries:
        (entry.parent / f".{entry.name}-99999999").mkdir()
        (entry.parent / f".{entry.name}0-99999999").mkdir()
        shutil.rmtree(entry, ignore_errors=True)
    (distilled,) = (entry for entry in entries if entry.parent.name == "distilled")
    mine = [distilled.with_name(f"{distilled.name}{end}") for end in (".99999999", ".pt.best-x3")]
    other = [path.with_name(path.name.replace(distilled.name, "other")) for path in mine]
    for path in (*mine, *other):
        path.write_text("half")
    again = run(tmp_path)
    assert again["distilled"]["test"] == made["distilled"]["test"] and not again["student"]["cached"]
    assert not any(path.exists() for path in mine) and all(path.exists() for path in other)
    for entry in entries:
        assert not (entry.parent / f".{entry.name}-99999999").exists() and (entry.parent / f".{entry.name}0-99999999").exists()


@pytest.mark.parametrize("resume", ["True", "False"])
def test_the_best_checkpoint_of_a_training_to_continue_is_no_leftover(resume: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume_module, "SHARE_OF_TIME", 1e9)
    with monkeypatch.context() as patched:
        cut_after(2, 3, patched)
        with pytest.raises(KeyboardInterrupt):
            main(words(tmp_path))
    (best,) = (tmp_path / "cache" / "distilled").glob("*.best-*")
    best.with_name(best.name.partition(".")[0] + ".99999999").write_text("half")
    run(tmp_path, f"--resume={resume}")
    assert {path.suffix for path in (tmp_path / "cache" / "distilled").iterdir()} == {".lock"}


def test_the_loaders_processes_are_part_of_what_is_kept(tmp_path: Path) -> None:
    """They draw other negatives than the process itself; without them an entry is that of before this counted."""
    plain, several = run(tmp_path), run(tmp_path, "--worker=1")
    assert not several["teacher"]["cached"] and not several["student"]["cached"]
    assert several["teacher"]["path"] != plain["teacher"]["path"]
    again = run(tmp_path, "--worker=0")
    assert again["teacher"]["cached"] and again["student"]["cached"]
    settings = json.loads((Path(plain["teacher"]["path"]) / "manifest.json").read_text())["settings"]
    assert "worker" not in settings
