"""Several processes train one model: each takes the rows of its users of every batch, the gradients are added up.

Every process runs the same program with the same seeds: it draws the same order, negatives and item sets, whatever
    their number. A batch is
cut by user, so that all rows of a query stay together, nothing is padded, and the sum of the parts' gradients is the
whole batch's: a mean over a part is weighted by its share of the batch's terms
(:mod:`recbole_kd.distributed.batch_shard`). Collectives go through NCCL on GPUs and gloo on CPUs.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from recbole_kd.distributed.batch_shard import BatchShard, ShardInteraction
from recbole_kd.distributed.children import deaf_to_interrupts
from recbole_kd.errors import KDError, LostProcessError, TrainingError

PATIENCE = timedelta(minutes=30)
"""A process may wait so long for the others: evaluation and epoch starts of a large catalogue are no failure. One that dies ends the others
at once."""

FAREWELL_SECONDS = 10
"""How long the others are given to say why they ended."""

START_SECONDS = 0.05
"""Between two looks at whether the others are there."""

Follow = Callable[["Ranks", Path], None]
"""What a further process does, given its rank and a folder of its own."""


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those that train together.

    Attributes:
        rank: of this process, 0 leads. world: how many there are. device: of this process.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Does this process write the files and the log?"""
        return self.rank == 0

    def mine(self, users: Tensor) -> Tensor:
        """Rows of this process: int64 ``[B]`` -> bool ``[B]``."""
        return users % self.world == self.rank

    def slice_of(self, n: int, grain: int = 1) -> slice:
        """This process's part of n consecutive rows, cut between grains of so many rows; the parts differ by at most one grain."""
        return self._slice_of(self.rank, n, grain)

    def _slice_of(self, rank: int, n: int, grain: int) -> slice:
        grains = -(-n // grain)
        start, stop = (min(n, grains * r // self.world * grain) for r in (rank, rank + 1))
        return slice(start, stop)

    def sum(self, values: list[float]) -> list[float]:
        """Sums over all processes."""
        total = torch.tensor(
            values, dtype=torch.float64 if self.device.type != "mps" else torch.float32, device=self.device
        )
        dist.all_reduce(total)
        return [float(value) for value in total]

    def add_up(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes, without a gradient."""
        total = values.detach().clone()
        dist.all_reduce(total)
        return total

    def gather(self, rows: Tensor, n: int, grain: int = 1) -> Tensor:
        """All processes' parts (:meth:`slice_of`) of a table of n rows, in order."""
        parts_of = [self._slice_of(rank, n, grain) for rank in range(self.world)]
        widths = [part.stop - part.start for part in parts_of]
        padded = rows.new_zeros(max(widths), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in widths]
        dist.all_gather(parts, padded)
        return torch.cat([part[:width] for part, width in zip(parts, widths, strict=True)])

    def add_gradients(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Replace every gradient by the sum over all processes; a parameter that none has a gradient of keeps none."""
        params = [p for group in optimizer.param_groups for p in group["params"]]
        has = torch.tensor([p.grad is not None for p in params], dtype=torch.float32, device=self.device)
        parts = [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in params]
        flat = torch.cat([has, *(part.to(torch.float32) for part in parts)])
        dist.all_reduce(flat)
        known, *sums = flat.split([len(params), *(p.numel() for p in params)])
        for p, some, total in zip(params, known.tolist(), sums, strict=True):
            p.grad = total.view_as(p).to(p.dtype) if some else None


class ShardLoader:
    """A RecBole training loader of which this process sees the rows of its own users, as parts of the batches (:class:`BatchShard`)."""

    def __init__(self, loader: Any, ranks: Ranks) -> None:
        self.loader, self.ranks = loader, ranks

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[ShardInteraction]:
        field = self.loader._dataset.uid_field
        for interaction in self.loader:
            users = interaction[field]
            mine = self.ranks.mine(users)
            counts = bool(mine.any())
            if not counts:  # a user of another process is borrowed
                mine = users == users[0]
            yield ShardInteraction.of(interaction[mine], BatchShard(interaction, mine, counts))


@contextmanager
def several(n: int, device: torch.device, follow: Follow) -> Iterator[Ranks | None]:
    """Within it n processes train together: this one leads, the others call ``follow(ranks, folder of their own)``.

    Args:
        follow: is pickled. n: 1 starts none, and yields None.

    Raises:
        LostProcessError: a process was killed. TrainingError: one failed. Both say which and why.
    """
    if n == 1:
        yield None
        return
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="recbole_kd-") as name:
        folder = Path(name)
        with open(folder / "follow", "wb") as handle:
            pickle.dump((follow, str(device), max(1, threads // n)), handle)
        context = torch.multiprocessing.get_context("spawn")
        processes = [
            context.Process(target=_follower, args=(name, rank, n), name=f"rank {rank}", daemon=True)
            for rank in range(1, n)
        ]
        with deaf_to_interrupts():
            for process in processes:
                process.start()
        torch.set_num_threads(max(1, threads // n))
        try:
            _wait_for_start(processes, folder)
            yield _join(folder, 0, n, device)
            for process in processes:
                process.join(FAREWELL_SECONDS)
        except KDError:
            raise
        except RuntimeError as error:
            raise _reason(processes, folder, n, error) from error
        finally:
            torch.set_num_threads(threads)
            _leave()
            for process in processes:
                if process.is_alive():
                    process.kill()
                process.join()


def _wait_for_start(processes: Sequence[BaseProcess], folder: Path) -> None:
    """Until every process has read what it needs: one that dies before it has joined would be waited for in vain.

    Raises:
        RuntimeError: one has ended; see :func:`_reason`.
    """
    while not all((folder / f"rank{rank}.ready").exists() for rank in range(1, len(processes) + 1)):
        if any(process.exitcode is not None for process in processes):
            raise RuntimeError("a process ended before it had joined the others")
        time.sleep(START_SECONDS)


def _end_with_parent() -> None:
    """End this process when the one that leads has gone, whatever it is doing."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _join(folder: Path, rank: int, n: int, device: torch.device) -> Ranks:
    own = torch.device("cuda", rank) if device.type == "cuda" else device
    backend = "nccl" if own.type == "cuda" else "gloo"
    dist.init_process_group(
        backend, init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=n, timeout=PATIENCE
    )
    return Ranks(rank, n, own)


def _leave() -> None:
    if dist.is_initialized():
        with suppress(RuntimeError):
            dist.destroy_process_group()


def _follower(name: str, rank: int, n: int) -> None:
    """What a further process does. To find this function, it has imported recbole_kd, which registers its models."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    folder, own = Path(name), Path(name) / f"rank{rank}"
    own.mkdir()
    try:
        with open(folder / "follow", "rb") as handle:
            follow, device, threads = pickle.load(handle)
        torch.set_num_threads(threads)
        (folder / f"rank{rank}.ready").touch()
        follow(_join(folder, rank, n, torch.device(device)), own)
    except Exception as error:
        words = str(error) if isinstance(error, KDError) else f"{type(error).__name__}: {' '.join(str(error).split())}"
        with suppress(OSError):  # the leader has ended, and its folder with it
            (folder / f"rank{rank}.reason").write_text(words, encoding="utf-8")
        sys.exit(1)
    finally:
        _leave()


def _reason(processes: Sequence[BaseProcess], folder: Path, n: int, error: RuntimeError) -> BaseException:
    """The first cause of an end: how another process ended, else this one's own error."""
    for process in processes:
        process.join(FAREWELL_SECONDS)
    killed = [process for process in processes if (process.exitcode or 0) < 0]
    for process in killed:
        how = signal.Signals(-int(process.exitcode or 0)).name
        return LostProcessError(
            f"{process.name} of {n} was killed ({how}): the others have ended; run again with --resume=True"
        )
    for process in processes:
        file = folder / f"{process.name.replace(' ', '')}.reason"
        if file.is_file():
            return TrainingError(f"{process.name} of {n} failed: {file.read_text(encoding='utf-8')[:500]}")
    return error
