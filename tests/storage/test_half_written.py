"""Files that a process left half-written when it was killed: their writer goes on, nobody else's file is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_kd.errors import TargetError
from recbole_kd.storage.files import written_whole
from recbole_kd.storage.targets import check_folder


def own(path: Path) -> bool:
    return path.name == "table.txt"


def test_a_half_written_file_is_its_writers(tmp_path: Path) -> None:
    (tmp_path / "table.txt").write_text("done")
    (tmp_path / ".table.txt-123").write_text("ha")
    check_folder(tmp_path, own=own)


@pytest.mark.parametrize("name", [".notes.txt-123", ".table.txt-old", "table.txt-123", ".table.txt"])
def test_a_file_of_a_like_name_is_not(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(TargetError, match=f"it holds {name}"):
        check_folder(tmp_path, own=own)
    assert (tmp_path / name).read_text() == "mine"


def test_a_link_or_a_folder_of_such_a_name_is_not(tmp_path: Path) -> None:
    for make in (lambda path: path.mkdir(), lambda path: path.symlink_to(tmp_path)):
        folder = tmp_path / "folder"
        folder.mkdir(exist_ok=True)
        path = folder / ".table.txt-1"
        make(path)
        with pytest.raises(TargetError):
            check_folder(folder, own=own)
        path.unlink() if path.is_symlink() else path.rmdir()


def test_a_folder_written_whole_replaces_what_a_kill_left(tmp_path: Path) -> None:
    folder = tmp_path / "entry"
    folder.mkdir()
    (folder / ".scores-77").write_text("ha")
    with written_whole(folder, replaces=("scores",)) as new:
        (new / "scores").write_text("all")
    assert [path.name for path in folder.iterdir()] == ["scores"]


def test_a_folder_with_a_file_of_ones_own_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "entry"
    folder.mkdir()
    (folder / "notes").write_text("mine")
    with pytest.raises(TargetError), written_whole(folder, replaces=("scores",)) as new:
        (new / "scores").write_text("all")
    assert (folder / "notes").read_text() == "mine"
