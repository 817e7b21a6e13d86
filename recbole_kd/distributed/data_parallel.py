"""Data-parallel training: each process takes its users' rows of every batch.

The gradients are summed. Every process runs the same program with the same seeds: it draws the same order, negatives
and item sets, whatever the number of processes. A batch is cut by user, so that all rows of a query stay together and
nothing is padded. The sum of the shards' gradients is the gradient of the whole batch: a mean over a shard is weighted
by its share of the batch's terms (:mod:`recbole_kd.distributed.batch_shard`). Collectives use NCCL on GPUs and gloo on
CPUs.
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
"""Longest wait of a process for the others, so that evaluation or epoch starts of a large catalogue are not failures.

If a process dies, the others end at once.
"""

FAREWELL_SECONDS = 10
"""Time for the other processes to report why they ended."""

START_SECONDS = 0.05
"""Interval between two checks of whether the other processes have started."""

Follow = Callable[["Ranks", Path], None]
"""Work of a further process, given its rank and its own folder."""


@dataclass(frozen=True)
class Ranks:
    """The rank of this process among those that train together.

    Attributes:
        rank: rank of this process; 0 leads. world: number of processes. device: device of this process.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes the files and the log."""
        return self.rank == 0

    def mine(self, users: Tensor) -> Tensor:
        """Return the mask of this process's rows: int64 ``[B]`` -> bool ``[B]``."""
        return users % self.world == self.rank

    def slice_of(self, n: int, grain: int = 1) -> slice:
        """Return this process's slice of n consecutive rows.

        Slices are cut at multiples of ``grain`` rows and differ by at most one grain.
        """
        return self._slice_of(self.rank, n, grain)

    def _slice_of(self, rank: int, n: int, grain: int) -> slice:
        grains = -(-n // grain)
        start, stop = (min(n, grains * r // self.world * grain) for r in (rank, rank + 1))
        return slice(start, stop)

    def sum(self, values: list[float]) -> list[float]:
        """Return the sums of the values over all processes."""
        total = torch.tensor(
            values, dtype=torch.float64 if self.device.type != "mps" else torch.float32, device=self.device
        )
        dist.all_reduce(total)
        return [float(value) for value in total]

    def check_same_epoch(self, epoch: int) -> None:
        """Refuse to continue from another epoch than the other processes.

        A network disk may show an earlier state to one of them for some seconds.

        Raises:
            LostProcessError: the epochs differ.
        """
        if self.sum([float(epoch)]) != [float(self.world * epoch)]:
            raise LostProcessError(
                f"rank {self.rank} of {self.world} would continue from epoch {epoch} and another rank from a different "
                "one: run again with --resume=True"
            )

    def add_up(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes, without a gradient."""
        total = values.detach().clone()
        dist.all_reduce(total)
        return total

    def gather(self, rows: Tensor, n: int, grain: int = 1) -> Tensor:
        """Return all processes' slices of a table of n rows (:meth:`slice_of`), in order."""
        parts_of = [self._slice_of(rank, n, grain) for rank in range(self.world)]
        widths = [part.stop - part.start for part in parts_of]
        padded = rows.new_zeros(max(widths), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in widths]
        dist.all_gather(parts, padded)
        return torch.cat([part[:width] for part, width in zip(parts, widths, strict=True)])

    def add_gradients(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Replace every gradient by its sum over all processes.

        A parameter without a gradient in every process stays without one.
        """
        params = [p for group in optimizer.param_groups for p in group["params"]]
        has = torch.tensor([p.grad is not None for p in params], dtype=torch.float32, device=self.device)
        parts = [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in params]
        flat = torch.cat([has, *(part.to(torch.float32) for part in parts)])
        dist.all_reduce(flat)
        known, *sums = flat.split([len(params), *(p.numel() for p in params)])
        for p, some, total in zip(params, known.tolist(), sums, strict=True):
            p.grad = total.view_as(p).to(p.dtype) if some else None


class ShardLoader:
    """A training loader that yields this process's rows of each batch (:class:`BatchShard`)."""

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
            if not counts:  # borrow a user of another process
                mine = users == users[0]
            yield ShardInteraction.of(interaction[mine], BatchShard(interaction, mine, counts))


@contextmanager
def several(n: int, device: torch.device, follow: Follow) -> Iterator[Ranks | None]:
    """Run n processes that train together: this one leads, the others call ``follow``.

    Args:
        n: 1 starts no process and yields None.
        follow: called with the ranks and the process's own folder; it is pickled.

    Raises:
        LostProcessError: a process was killed.
        TrainingError: a process failed. Both name the process and the reason.
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
    """Wait until every process has read its input.

    A process that dies before it has joined would otherwise be waited for in vain.

    Raises:
        RuntimeError: a process has ended; see :func:`_reason`.
    """
    while not all((folder / f"rank{rank}.ready").exists() for rank in range(1, len(processes) + 1)):
        if any(process.exitcode is not None for process in processes):
            raise RuntimeError("a process ended before it had joined the others")
        time.sleep(START_SECONDS)


def _end_with_parent() -> None:
    """End this process as soon as the leading process has ended, whatever it is doing."""
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
    """Run a further process.

    To find this function it has imported recbole_kd, which registers its models.
    """
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
        with suppress(OSError):  # the leading process has ended and removed its folder
            (folder / f"rank{rank}.reason").write_text(words, encoding="utf-8")
        sys.exit(1)
    finally:
        _leave()


def _reason(processes: Sequence[BaseProcess], folder: Path, n: int, error: RuntimeError) -> BaseException:
    """Return the first cause of a failure: that of another process, else this one's own error."""
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
