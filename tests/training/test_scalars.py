"""TensorBoard's writer of a training."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from recbole_kd.training import scalars
from recbole_kd.training.scalars import scalar_writer


def test_a_writer_writes_into_its_folder(tmp_path: Path) -> None:
    writer = scalar_writer(tmp_path / "scalars")
    writer.add_scalar("loss", 1.0, 0)
    writer.close()
    assert list((tmp_path / "scalars").iterdir())


def test_a_thread_that_has_no_memory_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(scalars.mmap, "mmap", full)
    with pytest.raises(MemoryError, match="16 MiB for a thread: Cannot allocate memory"):
        scalar_writer(tmp_path / "scalars")
    assert not (tmp_path / "scalars").exists()
