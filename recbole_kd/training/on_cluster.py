"""A training on the nodes of a Ray cluster: its ranks are workers of Ray Train.

The process that starts them trains nothing and waits. The job, the state, the checkpoints and the result are files in
folders that all nodes share. Ranks that are started again continue from the last state.
"""

from __future__ import annotations

import glob
import os
import pickle
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from recbole_kd.distributed.data_parallel import Ranks
from recbole_kd.distributed.ray_ranks import check_shared, connect_for_ranks, run_ranks
from recbole_kd.errors import ClusterError, ConfigError, KDError, TrainingError
from recbole_kd.integration.compat import quiet_warnings
from recbole_kd.storage.cache import remove_folder
from recbole_kd.training.resume_state import StateFile

JOB, RESULT = "job", "result.pt"
"""Files in the folder that the ranks of a training share."""


def train_on_cluster(job: Any, address: str) -> tuple[nn.Module, dict[str, Any]]:
    """Train a job on a cluster and return what its ``train`` returns.

    Args:
        job: a :class:`recbole_kd.training.training_job.TrainingJob`.
        address: ``auto``, ``HOST:PORT``, or ``local`` to start a cluster on this machine.

    Raises:
        ConfigError: the job has a callback.
        ClusterError: no cluster answers, it has too few CPUs or GPUs, or its nodes share no folder.
        LostProcessError: nodes were lost too often.
        KDError: what a rank raised.
    """
    if job.after_epoch is not None:
        raise ConfigError(
            f"ray_address={address} is not possible for a training whose epochs are followed by a callback, such as a "
            "trial of a search: leave it out"
        )
    on_gpus = job.config["device"].type == "cuda"
    with _state_is_kept():
        ray = connect_for_ranks(address, job.processes, on_gpus)
    files = type(job.files)(*(path.absolute() for path in astuple(job.files)))  # workers have other working folders
    if not job.resume:
        StateFile(files.state).remove()
    if job.trajectory is not None:
        job.trajectory.folder = job.trajectory.folder.absolute()
    with _marked(files.state.name, files.checkpoint.parent, files.state.parent) as marks:
        with _state_is_kept():
            check_shared(ray, marks, on_gpus)
        shared = marks[0]
        with open(shared / JOB, "wb") as handle:
            pickle.dump(replace(job, files=files, resume=True, progress=None), handle)
        given = {"folder": str(shared), "working_folder": os.getcwd()}
        run_ranks(train_rank, given, job.processes, on_gpus, shared / "ray")
        found = torch.load(shared / RESULT, weights_only=True)
    if job.trajectory is not None:
        job.trajectory.load_state(found["trajectory"])
    model, _ = job.model_and_loaders()
    model.load_state_dict(found["model"])
    return model, found["metrics"]


@contextmanager
def _state_is_kept() -> Iterator[None]:
    """Raise a ClusterError for a cluster that is refused.

    It leaves the state of an interrupted training alone.
    """
    try:
        yield
    except ConfigError as error:
        raise ClusterError(str(error)) from None


@contextmanager
def _marked(name: str, *folders: Path) -> Iterator[list[Path]]:
    """Make a temporary folder of a random name in each folder; only nodes that share the disk see it.

    The caller holds the lock of the training called ``name``, so that those of a killed command are stale and removed.
    """
    prefix = f".ray-{name}-"
    with ExitStack() as stack:
        marks = []
        for folder in dict.fromkeys(folders):
            folder.mkdir(parents=True, exist_ok=True)
            for stale in folder.glob(f"{glob.escape(prefix)}*"):
                remove_folder(stale)
            marks.append(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix, dir=folder))))
        yield marks


def train_rank(given: dict[str, Any]) -> None:
    """Run one rank of the job; Ray Train calls it in each worker.

    Where the node has the working folder of the command, the rank works in it: relative paths are read there, and a
    method's own module.

    Raises:
        TrainingError: it failed by an error that would come again.
    """
    import ray.train
    import ray.train.torch

    shared, context = Path(given["folder"]), ray.train.get_context()
    ranks = Ranks(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
    if os.path.isdir(given["working_folder"]):
        os.chdir(given["working_folder"])
    with open(shared / JOB, "rb") as handle:
        job = pickle.load(handle)
    try:
        if ranks.leads:
            _lead(job, ranks, shared)
        else:
            with tempfile.TemporaryDirectory(prefix="recbole_kd-") as own:
                replace(job, trajectory=None).follow(ranks, Path(own))
    except (KDError, RuntimeError):  # a collective raises a RuntimeError if another rank is lost
        raise
    except Exception as error:
        words = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise TrainingError(f"rank {ranks.rank} of {ranks.world} failed: {words[:500]}") from error


def _lead(job: Any, ranks: Ranks, shared: Path) -> None:
    """Run the first rank and write the result."""
    job.config["device"], job.config["show_progress"] = ranks.device, False
    with quiet_warnings():
        model, metrics = job.run(ranks)
    kept = None if job.trajectory is None else job.trajectory.state()
    torch.save({"model": model.state_dict(), "metrics": metrics, "trajectory": kept}, shared / RESULT)
