"""Tables written block by block: memory is bounded by the block, and an interrupted export goes on where it stopped.

The file is a safetensors file from the start: its header tells where each table's rows are, so a block is written to
    its place in any
order. Which blocks are there is kept beside it until all are.
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
"""Blocks that each worker may be ahead of the writing."""

NAMES = {torch.float32: "F32", torch.float16: "F16", torch.int32: "I32", torch.int64: "I64"}

ReadRows = Callable[[slice], Mapping[str, Tensor]]
"""The rows of each table in a slice."""


@dataclass(frozen=True)
class Layout:
    """Tables of the same number of rows, and how many rows are written at a time.

    Attributes:
        columns: table name -> (dtype, columns).
    """

    columns: Mapping[str, tuple[torch.dtype, int]]
    n_rows: int
    step: int

    @property
    def blocks(self) -> list[slice]:
        """Row slices, in order."""
        return [slice(start, min(start + self.step, self.n_rows)) for start in range(0, self.n_rows, self.step)]

    def header(self) -> bytes:
        """Of the safetensors file."""
        content: dict[str, object] = {}
        end = 0
        for name, (dtype, width) in self.columns.items():
            start, end = end, end + self.n_rows * width * dtype.itemsize
            content[name] = {"dtype": NAMES[dtype], "shape": [self.n_rows, width], "data_offsets": [start, end]}
        text = json.dumps(content).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    def offsets(self) -> dict[str, int]:
        """Where each table's first row is in the file."""
        place, found = len(self.header()), {}
        for name, (dtype, width) in self.columns.items():
            found[name] = place
            place += self.n_rows * width * dtype.itemsize
        return found

    @property
    def size(self) -> int:
        """Of the whole file, in bytes."""
        return len(self.header()) + sum(self.n_rows * width * dtype.itemsize for dtype, width in self.columns.values())


class BlockFile:
    """A file of tables under construction.

    Args:
        path: of the finished file; until then ``PATH.partial`` and ``PATH.blocks/`` are there.
        identity: says what is written; with the layout, its blocks included, it decides whether a partial file is
            continued or begun anew.
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
        """Numbers of the blocks that are not written yet."""
        return [number for number in range(len(self.layout.blocks)) if not (self.marks / str(number)).is_file()]

    def write(self, number: int, tables: Mapping[str, Tensor]) -> None:
        """Put a block into its place.

        Raises:
            TeacherError: its shape is another one than announced.
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
        """Give the file its name; nothing else stays.

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
    """Write all blocks that an earlier attempt has not written.

    Args:
        ray_address: of a cluster whose workers make the blocks, side by side; ``rows`` is pickled then. One after the
            other when None.
    """
    file = BlockFile(path, layout, identity)
    make_blocks(file, rows, ray_address)
    file.finish()


def make_blocks(file: BlockFile, rows: ReadRows, ray_address: str | None = None) -> None:
    """Make the blocks that a file lacks, as :func:`write_blocks` does; finishing it is left to the caller."""
    if ray_address is None:
        take_blocks(file, ((number, rows(file.layout.blocks[number])) for number in file.missing()))
    else:
        take_blocks(file, _made_on_ray(file, rows, ray_address))


def take_blocks(file: BlockFile, made: Iterable[tuple[int, Mapping[str, Tensor]]]) -> None:
    """Write blocks as they come, in any order."""
    for number, tables in made:
        file.write(number, tables)


def _made_on_ray(file: BlockFile, rows: ReadRows, address: str) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """The missing blocks, as workers finish them; a block whose worker was lost is made again."""
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
    """A block as arrays. What makes it is unpickled once a worker; arrays in it are Ray's, which a node maps once."""
    import ray

    (reference,) = shared
    if reference not in _kept:
        _kept.clear()
        _kept[reference] = ray.get(reference)
    return {name: table.detach().numpy() for name, table in _kept[reference](slice(start, stop)).items()}
