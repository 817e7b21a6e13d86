"""A disk that is full: one sentence, nothing half written, and what was finished is continued."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

import recbole_kd.teacher.export
from recbole_kd.cli.run import main
from recbole_kd.errors import StorageError
from recbole_kd.pipeline import stages
from recbole_kd.storage.disk_full import full_disk_is_said
from recbole_kd.training import resume_state as resume
from tests.support.runs import run, words

TORCH = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
"""As torch.save ends on a full tmpfs; the next two as the others do."""
SAFETENSORS = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
SYSTEM = OSError(errno.ENOSPC, "No space left on device")


def fails_at(count: int, real: Callable[..., Any], error: Exception, place: int) -> Callable[..., Any]:
    """A function that writes half a file, and fails, when it is called for the count-th time.

    ``place``: of the path among its arguments.
    """
    calls = [0]

    def write(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] != count:
            return real(*args, **kwargs)
        Path(args[place]).write_bytes(b"half")
        raise error

    return write


# what fails -> (module, name, place of the path among its arguments, error)
WRITES: dict[str, tuple[Any, str, int, Exception]] = {
    "checkpoint or state": (torch, "save", 1, TORCH),
    "copy of the best": (resume.shutil, "copyfile", 1, SYSTEM),
    "weights": (stages, "save_weights", 0, SAFETENSORS),
    "scores": (recbole_kd.teacher.export, "save_file", 1, SAFETENSORS),
}
CASES = [
    *(("checkpoint or state", count) for count in (1, 2, 4, 7, 9, 13, 14)),
    *(("copy of the best", count) for count in (1, 2, 5)),
]
CASES += [("weights", 1), ("scores", 1)]


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of the run that no disk disturbs."""
    return run(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize(("what", "count"), CASES)
def test_a_full_disk_is_said_and_the_run_goes_on(
    what: str,
    count: int,
    figures: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(resume, "SHARE_OF_TIME", 1e9)  # a state after every epoch
    broken = tmp_path / "broken"
    capsys.readouterr()
    with monkeypatch.context() as patched:
        module, name, place, error = WRITES[what]
        patched.setattr(module, name, fails_at(count, getattr(module, name), error, place))
        assert main(words(broken)) == 2
    err = capsys.readouterr().err
    said = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and "no room on the disk" in said[0] and "--resume=True" in said[0] and "Traceback" not in err
    files = [path for path in broken.rglob("*") if path.is_file() and "data" not in path.relative_to(broken).parts]
    assert not [path for path in files if path.read_bytes() == b"half"]
    assert [path.name for path in files if "saved" in path.parts] == ["run.log"]
    assert not [path for path in files if path.suffix[1:].isdigit()]
    again = run(broken, "--resume=True")
    for stage in ("teacher", "student", "distilled"):
        assert again[stage]["test"] == figures[stage]["test"]
    assert not list((broken / "cache").rglob("*.pt")) and not list((broken / "cache").rglob("*.best-*"))


def test_other_errors_pass(tmp_path: Path) -> None:
    for error in (RuntimeError("a loss"), PermissionError(errno.EACCES, "no"), ValueError("No space left")):
        with pytest.raises(type(error)), full_disk_is_said(tmp_path, ""):
            raise error
    with pytest.raises(StorageError, match="OSError: 100 requested and 20 written"), full_disk_is_said(tmp_path, ""):
        raise OSError("100 requested and 20 written")
