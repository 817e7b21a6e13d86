"""Damaged and odd files of grids, results, searches and teachers are sentences, never tracebacks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_kd.cli.boundary import answer
from recbole_kd.cli.program import main
from recbole_kd.errors import ConfigError, TeacherError, TrainingError
from recbole_kd.experiments.grid import read_grid
from recbole_kd.experiments.runner import checked_result
from recbole_kd.pipeline.stages import REPORT, _read_report
from recbole_kd.storage.files import MANIFEST, read_manifest
from recbole_kd.storage.json_files import read_json
from recbole_kd.training.resume_state import StateFile
from recbole_kd.tuning.space import read_space
from recbole_kd.tuning.study import TRIALS, Study
from tests.support.made_results import made_up, write_grid
from tests.support.runs import words

DAMAGED = {
    "empty": b"",
    "text": b"x",
    "half": b'{"a": [1',
    "binary": b"\xff\xfe\x00",
    "deep": b"[" * 100_000,
    "deep mapping": b'{"a":' * 100_000,
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_what_is_no_json_is_a_value_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(ValueError):
        read_json(path)


OTHER = {
    "list": b"[]",
    "null": b"null",
    "number": b"5",
    "mapping": b"{}",
    "wrong kinds": b'{"trials": 5, "base": [], "spacing": "x", "distilled": 1}',
}


@pytest.mark.parametrize("content", [*DAMAGED.values(), *OTHER.values()], ids=[*DAMAGED, *OTHER])
def test_every_reader_names_the_file_that_is_damaged(content: bytes, tmp_path: Path) -> None:
    readers: dict[str, tuple[type[Exception], Any]] = {
        "result.json": (ConfigError, checked_result),
        MANIFEST: (TeacherError, lambda path: read_manifest(path.parent)),
        "state.pt": (TrainingError, lambda path: StateFile(path).load(path.with_name("best.pth"), torch.device("cpu"))),
        TRIALS: (ConfigError, lambda path: Study({}, path.parent).finished()),
    }
    for name, (error, read) in readers.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(error) as found:
            read(path)
        assert name in str(found.value) and "\n" not in str(found.value)


@pytest.mark.parametrize("content", [*DAMAGED.values(), b"[]", b"null"], ids=[*DAMAGED, "list", "null"])
def test_a_damaged_report_of_a_student_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / REPORT).write_bytes(content)
    with pytest.raises(TeacherError, match=f"{REPORT} is damaged"):
        _read_report(tmp_path, {})


def test_a_result_without_figures_is_refused_by_tables_and_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_grid(tmp_path)
    task = read_grid(path).tasks[0]
    file = tmp_path / "results" / task.grid / task.file_name
    file.parent.mkdir(parents=True)
    whole = {**made_up(0.3, 0.1, 0.2), "settings": dict(task.settings)}
    damaged: list[dict[str, Any]] = [{"settings": dict(task.settings)}]
    damaged += [
        {**whole, "distilled": {**whole["distilled"], "valid": {"ndcg@20": value}}} for value in ("x", None, True, [1])
    ]
    damaged += [{**whole, "versions": []}, {**whole, "distilled": {**whole["distilled"], "history": [1]}}]
    for content in damaged:
        file.write_text(json.dumps(content))
        for verb in (["reproduce", str(path), "--table"], ["plot", str(path)]):
            assert main([*verb, f"--results={tmp_path / 'results'}"]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith(f"error: {file} is not a result of a run (") and line.endswith(
                "delete it, and the run is run again"
            )
    unmeasured = {**whole["teacher"], "valid": None, "test": None}  # of several teachers, or one that reads histories
    file.write_text(json.dumps({**whole, "teacher": unmeasured}))
    assert checked_result(file)["distilled"] == whole["distilled"]


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc/passwd", "a\0b"])
def test_a_grid_names_only_grids_beside_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(
        json.dumps(
            {"config": {"dataset": "t", "model": "MF", "teacher": "MF", "kd": "RCEKD"}, "runs": {"a": {"from": name}}}
        )
    )
    with pytest.raises(ConfigError):
        read_grid(path)


def test_a_hyper_file_whose_numbers_overflow(tmp_path: Path) -> None:
    path = tmp_path / "s.hyper"
    path.write_text("kd_weight loguniform 1,1000")
    with pytest.raises(ConfigError, match="natural logarithms, as RecBole's loguniform takes them, and exp"):
        read_space(path)
    path.write_text("kd_weight loguniform -8,709")
    assert read_space(path).parameters[0].examples


def test_names_that_no_file_can_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = {
        "~nobodyhere/x": "a user whom this machine does not know",
        "x" * 300: "a name of 300 bytes",
        "a/" * 2000: "2000 folders",
    }
    for key in ("cache_dir", "output_dir"):
        for value, why in said.items():
            assert main(["run", *words(tmp_path, **{key: value})]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith(f"error: {key}={value[:40]}") and why in line and len(line) < 300
    assert answer(lambda _: len(Path("a\0b").read_bytes()), []) == 2
    assert "holds a NUL character" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    ["/etc", "/etc/passwd", "a/b", "..", ".", "../data/tiny", "*", "tiny*", "t?ny", "x" * 300, " ", "a\tb", "tiny "],
)
def test_what_is_no_name_of_a_data_set(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *words(tmp_path, dataset=name)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: Invalid --dataset=") and "folder below --data_path" in line and len(line) < 400


def test_a_name_with_brackets_is_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = words(tmp_path)  # makes the data set tiny
    folder = tmp_path / "data" / "tiny"
    (folder / "tiny.inter").rename(folder / "tiny[0].inter")
    folder.rename(tmp_path / "data" / "tiny[0]")
    named = [word for word in given if not word.startswith("--dataset=")]
    assert main(["plan", *named, "--dataset=tiny[0]"]) == 0
    assert "tiny[0]: 30 users" in capsys.readouterr().out


@pytest.mark.parametrize("teacher", ["LightGCN", "EASE"])  # EASE has a trainer of its own in RecBole
def test_a_working_folder_that_cannot_be_written_to(
    teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container: cache and output lie elsewhere.

    The folder is watched, since root writes into read-only ones too.
    """
    here = tmp_path / "here"
    here.mkdir()
    own = {"teacher.epochs": "1"} if teacher == "LightGCN" else {"teacher.epochs": None, "teacher.embedding_size": None}
    given = words(tmp_path, teacher=teacher, epochs="1", **own)
    monkeypatch.chdir(here)
    made: list[str] = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event in ("open", "os.mkdir") and isinstance(arguments[0], str):
            writes = event == "os.mkdir" or (isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"))
            if writes and (not Path(arguments[0]).is_absolute() or Path(arguments[0]).is_relative_to(here)):
                made.append(arguments[0])

    watching = True
    sys.addaudithook(watch)
    try:
        assert main(["run", *given]) == 0
    finally:
        watching = False  # a hook cannot be removed
    assert not made and not list(here.iterdir())
