"""What changed on disk is noticed when it is read: cached entries, states, prepared data.

And the cache can be listed and pruned.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from recbole_kd.cli.program import main as program
from recbole_kd.cli.run import main
from recbole_kd.data.preparing.prepare import prepare
from recbole_kd.data.preparing.raw_layouts import Options
from recbole_kd.errors import UnreadableFileError
from recbole_kd.integration.safe_load import load_checkpoint
from recbole_kd.storage import integrity
from recbole_kd.storage.cache import locked
from recbole_kd.storage.cache_entries import entry_damage, list_cache, prune_cache, verify_cache
from recbole_kd.storage.digests import file_digest, file_sha256
from recbole_kd.storage.files import MANIFEST, SCORES, read_manifest, write_manifest
from recbole_kd.storage.integrity import damage, is_changed, is_sealed, records_of, seal, sealed
from recbole_kd.storage.json_files import read_json
from recbole_kd.training import resume_state
from tests.support.runs import cut_after, refusal, results, run, words


def flip(path: Path, place: int | None = None, bit: int = 4) -> None:
    """Flip one bit of a file, in its middle unless a place is named."""
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 if place is None else place] ^= 1 << bit
    path.write_bytes(bytes(raw))


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(8))


def gone(path: Path) -> None:
    path.unlink()


# -- functions
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", [flip, half, longer, gone])
def test_each_harm_to_a_file_is_found(harm: Callable[[Path], None], tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(bytes(range(256)) * 10)
    records = records_of(tmp_path.iterdir())
    assert damage(tmp_path, records) is None
    harm(tmp_path / "b")
    wrong = damage(tmp_path, records)
    assert wrong is not None and wrong.startswith("b ")
    if harm in (half, longer):
        assert wrong == f"b has {1280 if harm is half else 2568} bytes, not 2560"


def test_a_large_file_is_sampled_and_read_whole_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integrity, "SAMPLE", 16)
    monkeypatch.setattr(integrity, "WHOLE", 64)
    path = tmp_path / "large"
    path.write_bytes(bytes(i % 251 for i in range(1000)))
    records = records_of([path])
    found_by_sample = 0
    for place in range(1000):
        flip(path, place)
        sampled = damage(tmp_path, records) is not None
        assert damage(tmp_path, records, full=True) is not None
        assert sampled or 16 <= place < 984, "the first and the last block are always read"
        found_by_sample += sampled
        flip(path, place)
    assert found_by_sample == 64 and damage(tmp_path, records, full=True) is None


def test_a_sealed_mapping_and_a_sealed_file_notice_every_change(tmp_path: Path) -> None:
    content = sealed({"a": 0.1, "b": [1, {"c": None}], "path": Path("x")})
    assert not is_changed(json.loads(json.dumps(content))) and sealed(content) == content
    assert (
        is_changed({**content, "a": 0.2})
        and is_changed({**content, "new": 1})
        and is_changed({k: v for k, v in content.items() if k != "b"})
    )
    path = tmp_path / "state.pt"
    torch.save({"weights": torch.arange(5)}, path)
    assert not is_sealed(path)
    seal(path)
    assert is_sealed(path) and torch.load(path, weights_only=True)["weights"].tolist() == [0, 1, 2, 3, 4]
    size = path.stat().st_size
    for place in [*range(0, size, 37), *range(size - 60, size)]:
        flip(path, place, bit=place % 8)
        assert not is_sealed(path)
        flip(path, place, bit=place % 8)
    path.write_bytes(b"")
    assert not is_sealed(path)


# -- cached entries
# -----------------------------------------------------------------------------------------------------


def entries(folder: Path) -> dict[str, Path]:
    return {entry.kind: entry.path for entry in list_cache(folder / "cache") if entry.kind != "trained"}


@pytest.mark.parametrize("harm", [flip, half, longer])
def test_a_changed_file_of_an_entry_is_refused(
    harm: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path)
    for kind, entry in entries(tmp_path).items():
        for path in sorted(entry.iterdir()):
            before = path.read_bytes()
            harm(path)
            capsys.readouterr()
            assert main(words(tmp_path)) == 2, (kind, path.name)
            said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
            assert len(said) == 1 and entry.name in said[0] and "delete the folder" in said[0]
            path.write_bytes(before)
    assert run(tmp_path)["teacher"]["cached"]


def test_a_changed_digit_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path)
    for kind, name in (("teacher", MANIFEST), ("student", "report.json")):
        path = entries(tmp_path)[kind] / name
        before = path.read_text()
        content = json.loads(before)
        figures = content["report"] if kind == "teacher" else content
        figures["test"]["ndcg@10"] += 0.001
        path.write_text(json.dumps(content))
        capsys.readouterr()
        assert main(words(tmp_path)) == 2 and "is not what was written" in capsys.readouterr().err
        path.write_text(before)


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_an_entry_in_anothers_place_is_refused(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two whole entries that changed places: each is what was written, and is not what the run asks for."""
    run(tmp_path)
    first = entries(tmp_path)[kind]
    run(tmp_path, **{"teacher.embedding_size": "6", "embedding_size": "6"})
    second = next(entry.path for entry in list_cache(tmp_path / "cache") if entry.kind == kind and entry.path != first)
    shutil.rmtree(first)
    shutil.copytree(second, first)
    capsys.readouterr()
    assert main(words(tmp_path)) == 2
    assert "was not made for this run (embedding_size=6, not " in capsys.readouterr().err


def test_an_entry_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    whole = run(tmp_path)
    for kind, name in (("teacher", MANIFEST), ("student", "report.json")):
        path = entries(tmp_path)[kind] / name
        content = json.loads(path.read_text())
        path.write_text(
            json.dumps(
                {
                    key: value
                    for key, value in content.items()
                    if key not in ("files", "sha256", "data" * (kind == "student"))
                }
            )
        )
    again = run(tmp_path)
    assert (
        again["teacher"]["cached"]
        and again["student"]["cached"]
        and again["distilled"]["test"] == whole["distilled"]["test"]
    )


def test_a_workshop_that_a_kill_left_beside_its_entry_goes_with_the_next_run(tmp_path: Path) -> None:
    run(tmp_path)
    works = [path.with_name(path.name + ".work") for path in entries(tmp_path).values()]
    for work in works:
        work.mkdir()
        (work / "state.pt").write_text("of a training that is done")
    run(tmp_path)
    assert works and not any(work.exists() for work in works)


# -- states
# -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["state", "best checkpoint", "another training's"])
def test_a_state_that_is_not_what_was_written_is_refused(
    which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(resume_state, "SHARE_OF_TIME", 1e9)
    for seed in ("1", "2"):
        with monkeypatch.context() as patched:
            cut_after(1, 3 if seed == "1" else 2, patched)
            with pytest.raises(KeyboardInterrupt):
                main(words(tmp_path, seed=seed, split_seed="0"))
    states = sorted((tmp_path / "cache" / "distilled").glob("*.pt"))
    if which == "another training's":
        assert len(states) == 2
        raw = [path.read_bytes() for path in states]
        for path, other in zip(states, raw[::-1], strict=True):
            path.write_bytes(other)
    else:
        for path in (tmp_path / "cache" / "distilled").glob("*.pt" if which == "state" else "*.best-*"):
            flip(path)
    capsys.readouterr()
    assert main([*words(tmp_path, seed="1", split_seed="0"), "--resume=True"]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and "cannot be continued from" in said[0] and "--resume=False" in said[0]
    assert not results(tmp_path)


# -- prepared data
# ------------------------------------------------------------------------------------------------------


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    raw = tmp_path / "raw.txt"
    rows = [f"u{user} {' '.join(str((user * 7 + step * 3) % 40) for step in range(12))}" for user in range(30)]
    raw.write_text("\n".join(rows) + "\n")
    prepare("mine", Options(raw=tmp_path, file="raw.txt", split="ratio"), tmp_path / "data", form="sequence")
    return tmp_path / "data" / "mine"


CHANGES: dict[str, Callable[[Path], None]] = {
    "flipped": lambda folder: flip(folder / "mine.inter", bit=0),
    "half": lambda folder: half(folder / "mine.inter"),
    "gone": lambda folder: gone(folder / "mine.valid.inter"),
    "train swapped with test": lambda folder: (
        shutil.copy(folder / "mine.test.inter", folder / "mine.train.inter") and None
    ),
}


@pytest.mark.parametrize("more", [{}, {"benchmark_filename": "[train, valid, test]"}])
@pytest.mark.parametrize("change", CHANGES)
def test_a_prepared_file_that_changed_is_refused_with_the_command(
    change: str, more: dict[str, Any], prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    CHANGES[change](prepared)
    line = refusal(capsys, tmp_path, dataset="mine", **more)
    assert (
        "recbole-kd prepare mine --form=sequence --raw=<folder with raw.txt>" in line and str(prepared.parent) in line
    )
    prepare("mine", Options(raw=tmp_path, file="raw.txt", split="ratio"), tmp_path / "data", form="sequence")
    assert main(words(tmp_path, dataset="mine", kd_compare="False", **more)) == 0


def test_a_damaged_or_missing_record_of_a_prepared_data_set(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in ("{", "[]", '{"files": 3}', "[" * 100_000):
        (prepared / "prepared.json").write_text(text)
        assert "prepared.json is damaged" in refusal(capsys, tmp_path, dataset="mine")
    (prepared / "prepared.json").unlink()  # the data set is the user's own
    assert main(words(tmp_path, dataset="mine", kd_compare="False")) == 0


# -- list, verify, prune
# ------------------------------------------------------------------------------------------------


def test_the_cache_is_listed_verified_and_pruned(tmp_path: Path) -> None:
    run(tmp_path)
    cache = tmp_path / "cache"
    (cache / "teacher" / "notes.txt").write_text("mine")
    listed = list_cache(cache)
    assert {entry.kind for entry in listed} == {"teacher", "trained", "student"} and all(
        entry.finished for entry in listed
    )
    assert all(entry.size > 0 and 0 <= entry.age < 600 and "tiny" in entry.made_by for entry in listed)
    assert verify_cache(cache) == {}
    teacher = next(entry for entry in listed if entry.kind == "teacher")
    flip(teacher.path / SCORES)
    assert list(verify_cache(cache)) == [teacher.name]
    assert [entry.name for entry in prune_cache(cache, [teacher.name, "teacher/notes.txt"], dry_run=True)] == [
        teacher.name
    ]
    assert teacher.path.is_dir()
    with FileLock(str(teacher.path) + ".lock"):
        assert prune_cache(cache, [teacher.name]) == [] and teacher.path.is_dir()
    assert [entry.name for entry in prune_cache(cache, [teacher.name])] == [teacher.name]
    assert not teacher.path.exists() and (cache / "teacher" / "notes.txt").read_text() == "mine"
    assert list_cache(tmp_path / "nowhere") == []


def test_what_an_interrupted_training_left_is_listed_and_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume_state, "SHARE_OF_TIME", 1e9)
    for which in (3, 1):
        with monkeypatch.context() as patched:
            cut_after(1, which, patched)
            with pytest.raises(KeyboardInterrupt):
                main(words(tmp_path, seed=str(which)))
    unfinished = [entry for entry in list_cache(tmp_path / "cache") if not entry.finished]
    assert {entry.kind for entry in unfinished} == {"student", "distilled"}
    assert {entry.made_by for entry in unfinished} == {"an interrupted training"}
    removed = prune_cache(tmp_path / "cache", [entry.name for entry in unfinished])
    assert [entry.name for entry in removed] == [entry.name for entry in unfinished]
    assert not [path for path in (tmp_path / "cache").rglob("*") if ".pt" in path.name or ".work" in path.name]


def test_an_entry_with_a_users_file_is_not_pruned(tmp_path: Path) -> None:
    folder = tmp_path / "teacher" / "x-MF-0"
    folder.mkdir(parents=True)
    (folder / SCORES).write_bytes(b"numbers")
    write_manifest(folder, {"model": "MF"})
    assert entry_damage(folder) is None
    (folder / "notes.txt").write_text("mine")
    assert prune_cache(tmp_path, ["teacher/x-MF-0"]) == [] and (folder / SCORES).is_file()
    (folder / "notes.txt").unlink()
    assert len(prune_cache(tmp_path, ["teacher/x-MF-0"])) == 1 and not folder.exists()
    with pytest.raises(ValueError, match="No teacher at"):
        read_manifest(folder)


def test_the_verb_lists_verifies_and_prunes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path)
    where = f"--cache_dir={tmp_path / 'cache'}"
    names = {entry.kind: entry.name for entry in list_cache(tmp_path / "cache")}

    def said(*argv: str, code: int = 0) -> str:
        capsys.readouterr()
        assert program(["cache", *argv, where]) == code
        captured = capsys.readouterr()
        return captured.out + captured.err

    assert all(name in said("list") for name in names.values()) and "3 entries" in said("list")
    assert said("verify").count("whole") == 3
    flip(tmp_path / "cache" / names["teacher"] / SCORES)
    assert "is not what was written" in said("verify", code=1) and "1 entries" in said("verify", names["student"])
    assert (
        "nothing was removed" in said("prune", "--damaged", "--dry-run")
        and (tmp_path / "cache" / names["teacher"]).is_dir()
    )
    assert "removed 0 of 0" in said("prune", "--older_than=1") and "removed 0 of 0" in said(
        "prune", "--larger_than=1000"
    )
    assert "removed 1 of 1" in said("prune", "--damaged") and {
        entry.kind for entry in list_cache(tmp_path / "cache")
    } == {
        "trained",
        "student",
    }
    assert all(
        "removed 1 of 1" in said("prune", names[kind]) for kind in ("trained", "student")
    ) and "0 entries" in said("list")
    for argv, words_ in (
        (["prune"], "without a choice"),
        (["list", "teacher/x"], "is not an entry"),
        (["list", "--dry-run"], "has no effect"),
    ):
        line = said(*argv, code=2)
        assert line.startswith("error: ") and words_ in line and line.count("\n") == 1


def test_an_entry_without_digests_is_read_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """The entry is one of a version before the digests."""
    folder = tmp_path / "teacher" / "x-MF-0"
    folder.mkdir(parents=True)
    manifest = {"format": 1, "store": "factors", "n_queries": 3, "n_items": 4}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with caplog.at_level("WARNING"):
        assert read_manifest(folder) == manifest
    (line,) = caplog.messages
    assert str(folder) in line and "without digests" in line and "delete the folder and train the teacher again" in line
    assert program(["cache", "verify", f"--cache_dir={tmp_path}"]) == 0
    assert "cannot be checked: no digests" in capsys.readouterr().out
    caplog.clear()
    write_manifest(folder, manifest)
    assert read_manifest(folder)["files"] == {} and not caplog.messages


@pytest.mark.parametrize("read", [file_sha256, file_digest, read_json, load_checkpoint])
def test_a_pipe_in_a_files_place_is_not_waited_for(read: Callable[[Path], Any], tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises((OSError, UnreadableFileError), match="a pipe or a device, not a file"):
        read(pipe)
    with pytest.raises((OSError, UnreadableFileError)):
        read(tmp_path)


def test_a_pipe_in_a_work_folders_place_stays(tmp_path: Path) -> None:
    entry, pipes = tmp_path / "entry", [tmp_path / "entry.work", tmp_path / ".entry-1"]
    entry.mkdir()
    for pipe in pipes:
        os.mkfifo(pipe)
    with locked(entry):
        assert all(pipe.is_fifo() for pipe in pipes)
