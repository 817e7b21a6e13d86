"""Tables written block by block, in memory of one block, and resumable.

The file is a safetensors file from the start. Its header gives the offset of each table's rows, so blocks can be
written in any order. Next to the file there are marks of the finished blocks until all are written.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recbole_kd.distributed.ray_cluster import connect
from recbole_kd.errors import TeacherError
from recbole_kd.storage.targets import check_file, check_folder
from recbole_kd.teacher.number_format import rounded

IN_FLIGHT = 2
"""Blocks that each worker may be ahead of the writer."""

NAMES = {torch.float32: "F32", torch.float16: "F16", torch.int32: "I32", torch.int64: "I64"}

ReadRows = Callable[[slice], Mapping[str, Tensor]]
"""A function from a slice to the rows of each table in it."""


@dataclass(frozen=True)
class Layout:
    """Tables with the same number of rows, and the block size.

    Attributes:
        columns: table name -> (dtype, number of columns).
        n_rows: number of rows.
        step: rows per block.
    """

    columns: Mapping[str, tuple[torch.dtype, int]]
    n_rows: int
    step: int

    @property
    def blocks(self) -> list[slice]:
        """The row slices, in order."""
        return [slice(start, min(start + self.step, self.n_rows)) for start in range(0, self.n_rows, self.step)]

    def header(self) -> bytes:
        """Return the header of the safetensors file."""
        content: dict[str, object] = {}
        end = 0
        for name, (dtype, width) in self.columns.items():
            start, end = end, end + self.n_rows * width * dtype.itemsize
            content[name] = {"dtype": NAMES[dtype], "shape": [self.n_rows, width], "data_offsets": [start, end]}
        text = json.dumps(content).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    def offsets(self) -> dict[str, int]:
        """Return the offset of each table's first row in the file, in bytes."""
        place, found = len(self.header()), {}
        for name, (dtype, width) in self.columns.items():
            found[name] = place
            place += self.n_rows * width * dtype.itemsize
        return found

    @property
    def size(self) -> int:
        """Size of the whole file, in bytes."""
        return len(self.header()) + sum(self.n_rows * width * dtype.itemsize for dtype, width in self.columns.values())


class BlockFile:
    """A file of tables under construction.

    Args:
        path: the finished file. Until it is finished there are ``PATH.partial`` and ``PATH.blocks/``.
        layout: the tables and blocks.
        identity: describes the content. A partial file is resumed only if identity and layout are the same.
    """

    def __init__(self, path: Path, layout: Layout, identity: str = "") -> None:
        self.path, self.layout = path, layout
        self.partial = path.with_name(path.name + ".partial")
        self.marks = path.with_name(path.name + ".blocks")
        known = {"step": layout.step, "n_rows": layout.n_rows, "identity": identity}
        self._begin(layout.header() + json.dumps(known, sort_keys=True).encode())

    def _begin(self, identity: bytes) -> None:
        known = self.marks / "identity"
        if known.is_file() and known.read_bytes() == identity and self.partial.is_file():
            return
        for path in (self.path, self.partial):
            check_file(path, own=lambda _: True)
        check_folder(self.marks, own=lambda path: path.name.isdecimal() or path.name == "identity")
        shutil.rmtree(self.marks, ignore_errors=True)
        self.marks.mkdir(parents=True)
        with open(self.partial, "wb") as handle:
            handle.write(self.layout.header())
            handle.truncate(self.layout.size)
        known.write_bytes(identity)

    def missing(self) -> list[int]:
        """Return the numbers of the blocks that are not written yet."""
        return [number for number in range(len(self.layout.blocks)) if not (self.marks / str(number)).is_file()]

    def write(self, number: int, tables: Mapping[str, Tensor]) -> None:
        """Write a block at its offset.

        Raises:
            TeacherError: its shape differs from the layout.
        """
        rows = self.layout.blocks[number]
        with open(self.partial, "r+b") as handle:
            for name, offset in self.layout.offsets().items():
                dtype, width = self.layout.columns[name]
                block = rounded(tables[name], dtype)
                if block.shape != (rows.stop - rows.start, width):
                    raise TeacherError(
                        f"{self.path} got a block of {name} of {tuple(block.shape)}, not {rows.stop - rows.start} x "
                        f"{width}"
                    )
                handle.seek(offset + rows.start * width * dtype.itemsize)
                handle.write(block.numpy().tobytes())
            handle.flush()
            os.fsync(handle.fileno())
        (self.marks / str(number)).touch()

    def finish(self) -> None:
        """Rename the finished file to its path and remove the marks.

        Raises:
            TeacherError: blocks are missing.
        """
        missing = self.missing()
        if missing:
            raise TeacherError(
                f"{self.path} lacks {len(missing)} of {len(self.layout.blocks)} blocks: run the export again"
            )
        os.replace(self.partial, self.path)
        shutil.rmtree(self.marks)


def write_blocks(
    path: Path, layout: Layout, rows: ReadRows, identity: str = "", ray_address: str | None = None
) -> None:
    """Write all blocks that an earlier attempt has not written, and finish the file.

    Args:
        path, layout, identity: see :class:`BlockFile`.
        rows: computes the rows of a block. It is pickled for workers.
        ray_address: address of a cluster whose workers compute the blocks in parallel. If None, this process computes
            them one by one.
    """
    file = BlockFile(path, layout, identity)
    make_blocks(file, rows, ray_address)
    file.finish()


def make_blocks(file: BlockFile, rows: ReadRows, ray_address: str | None = None) -> None:
    """Compute the missing blocks of a file like :func:`write_blocks`, without finishing it."""
    if ray_address is None:
        take_blocks(file, ((number, rows(file.layout.blocks[number])) for number in file.missing()))
    else:
        take_blocks(file, _made_on_ray(file, rows, ray_address))


def take_blocks(file: BlockFile, made: Iterable[tuple[int, Mapping[str, Tensor]]]) -> None:
    """Write blocks as they arrive, in any order."""
    for number, tables in made:
        file.write(number, tables)


def _made_on_ray(file: BlockFile, rows: ReadRows, address: str) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Yield the missing blocks as workers finish them; the block of a lost worker is retried."""
    ray = connect(address)
    shared = ray.put(rows)
    remote = ray.remote(num_cpus=1, max_retries=3, scheduling_strategy="SPREAD")(_made_by_worker)
    waiting = file.missing()[::-1]
    ahead = max(1, IN_FLIGHT * int(ray.cluster_resources().get("CPU", 1)))
    pending: dict[Any, int] = {}
    while waiting or pending:
        while waiting and len(pending) < ahead:
            number = waiting.pop()
            block = file.layout.blocks[number]
            pending[remote.remote([shared], block.start, block.stop)] = number
        (ready,), _ = ray.wait(list(pending), num_returns=1)
        tables = ray.get(ready)
        yield pending.pop(ready), {name: torch.tensor(table) for name, table in tables.items()}


_kept: dict[Any, ReadRows] = {}


def _made_by_worker(shared: list[Any], start: int, stop: int) -> dict[str, Any]:
    """Return a block as arrays.

    The function that computes it is unpickled once per worker. Its arrays are in Ray's object store, mapped once per
    node.
    """
    import ray

    (reference,) = shared
    if reference not in _kept:
        _kept.clear()
        _kept[reference] = ray.get(reference)
    return {name: table.detach().numpy() for name, table in _kept[reference](slice(start, stop)).items()}
