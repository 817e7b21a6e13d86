"""Requests for a Ray cluster that are refused before Ray is started."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch

from recbole_kd.distributed import ray_ranks
from recbole_kd.distributed.data_parallel import Ranks
from recbole_kd.distributed.ray_ranks import RESTARTS, connect_for_ranks, run_ranks
from recbole_kd.errors import ConfigError, DivergedError, LostProcessError
from recbole_kd.pipeline import cluster_checks
from recbole_kd.pipeline.cluster_checks import check_cluster_keys, connect_clusters
from recbole_kd.training import on_cluster
from recbole_kd.training.on_cluster import _marked


@pytest.fixture(autouse=True)
def _ray_stays_away(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    ray.shutdown()
    yield
    assert not ray.is_initialized()


def keys(address: str | None, nproc: int | None) -> dict[str, Any]:
    return {"ray_address": address, "nproc": nproc}


@pytest.mark.parametrize(
    ("of_teacher", "student", "teacher", "words"),
    [
        (None, keys("auto", 1), keys("auto", 1), "^ray_address=auto has no effect with nproc=1: set nproc"),
        (None, keys("auto", None), keys("auto", None), "^ray_address=auto has no effect with nproc=1: set nproc"),
        (None, keys(None, 1), keys("auto", 1), "teacher.ray_address=auto has no effect with teacher.nproc=1: set"),
        (None, keys("auto", 2), keys("local", 1), "teacher.ray_address=local has no effect with teacher.nproc=1"),
        (None, keys("auto", 2), keys("local", 2), "^ray_address=auto and teacher.ray_address=local name two clusters"),
        ("local", keys("auto", 2), keys("auto", 2), "teacher_ray_address=local and ray_address=auto name two clusters"),
        ("local", keys("auto", 1), keys("auto", 2), "teacher_ray_address=local and ray_address=auto name two clusters"),
    ],
)
def test_addresses_without_effect_are_refused(
    of_teacher: str | None, student: dict[str, Any], teacher: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        check_cluster_keys(of_teacher, student, [teacher])


def test_an_address_is_for_the_trainings_of_several_processes() -> None:
    check_cluster_keys("auto", keys("auto", 2), [keys("auto", 1)])
    check_cluster_keys("auto", keys(None, 1), [keys("auto", 2)])
    check_cluster_keys(None, keys("auto", 1), [keys("auto", 2)])
    check_cluster_keys("auto", keys(None, 1), [keys(None, 1)])
    check_cluster_keys(None, keys("auto", 2), [keys(None, 2)])


def test_the_clusters_of_teacher_and_student_are_asked_before_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(cluster_checks, "connect", asked.append)
    monkeypatch.setattr(cluster_checks, "connect_for_ranks", lambda *given: asked.append(given))
    device = {"device": torch.device("cpu")}
    connect_clusters(None, [keys("auto", 1) | device, keys("auto", 3) | device])
    connect_clusters("local", [keys(None, 2) | device])
    assert asked == [("auto", 3, False), "local"]


def test_a_ray_that_does_not_start_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray raises a plain Exception where its processes take too long."""

    def init(**_: Any) -> None:
        raise Exception("The current node timed out\nduring startup.")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ConfigError, match=r"Ray does not start on this machine \(The current node timed out during"):
        connect_for_ranks("local", 1, False)


def test_a_refused_cluster_leaves_the_state_of_an_interrupted_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise ConfigError("nproc=2 is more than the 1 CPUs of the Ray cluster")

    monkeypatch.setattr(on_cluster, "connect_for_ranks", refuse)
    job: Any = SimpleNamespace(after_epoch=None, config={"device": torch.device("cpu")}, processes=2)
    with pytest.raises(LostProcessError, match=r"^nproc=2 is more than the 1 CPUs of the Ray cluster$") as raised:
        on_cluster.train_on_cluster(job, "auto")
    assert isinstance(raised.value, ConfigError), "it is an error of the request, too"


def test_an_old_ray_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "__version__", "2.6.3")
    with pytest.raises(ConfigError, match=r"trains by Ray Train of Ray 2\.51 or later and Ray 2\.6\.3 is"):
        connect_for_ranks("auto", 2, False)


@pytest.mark.skipif(ray_ranks.ray_version() < ray_ranks.LOWEST_RAY, reason="Ray Train is too old")
def test_more_processes_than_cpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    with pytest.raises(ConfigError, match="nproc=4 is more than the 3 CPUs of the Ray cluster: take at most that"):
        connect_for_ranks("local", 4, False)


class LostError(Exception):
    """A failure of Ray Train with the exceptions of its workers."""

    def __init__(self, *failures: Exception) -> None:
        super().__init__("first line\nThe node died.")
        self.worker_failures = dict(enumerate(failures))


def starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, cpus: list[int], *ends: Exception | None) -> int:
    """Run ranks whose starts end like this, on a cluster with so many CPUs after each; return the number of starts."""
    left, begun = iter(ends), []

    def fit(*given: Any) -> None:
        begun.append(given[-1])
        failure = next(left)
        if failure is not None:
            raise failure

    def nodes() -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": float(cpus[min(len(begun), len(cpus)) - 1])}}]

    monkeypatch.setattr(ray_ranks, "_fit", fit)
    monkeypatch.setattr(ray, "nodes", nodes)
    run_ranks(lambda _: None, {}, 2, False, tmp_path)
    assert len(set(begun)) == len(begun), "each start has a folder of its own"
    return len(begun)


def test_ranks_start_again_after_a_loss(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    assert starts(monkeypatch, tmp_path, [2], LostError(RuntimeError("closed")), LostError(), None) == 3
    with pytest.raises(LostProcessError, match=r"4 times, last for this reason: The node died\.; run again with --res"):
        starts(monkeypatch, tmp_path, [2], *(RESTARTS + 1) * [LostError()])


def test_ranks_do_not_start_again_where_it_is_in_vain(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    with pytest.raises(DivergedError, match="nan"):
        starts(monkeypatch, tmp_path, [2], LostError(RuntimeError("closed"), DivergedError("The loss is nan")))
    with pytest.raises(LostProcessError, match=r"nproc=2 is more than the 1 CPUs .* then run again with --resume=True"):
        starts(monkeypatch, tmp_path, [1], LostError())


def test_a_lost_head_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Without it Ray does not answer which nodes are left."""

    def gone() -> None:
        raise ConnectionError("GCS\nis gone")

    def fit(*_: Any) -> None:
        monkeypatch.setattr(ray, "nodes", gone)
        raise LostError()

    monkeypatch.setattr(ray_ranks, "_fit", fit)
    with pytest.raises(LostProcessError, match=r"was lost \(The node died\.\): start it again, .* --resume=True"):
        run_ranks(lambda _: None, {}, 2, False, tmp_path)


def test_ranks_that_would_continue_from_different_epochs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Ranks(1, 2, torch.device("cpu"))
    monkeypatch.setattr(Ranks, "sum", lambda _, values: [values[0] + 3.0])
    ranks.check_same_epoch(3)
    with pytest.raises(LostProcessError, match="rank 1 of 2 would continue from epoch 4 and another rank from"):
        ranks.check_same_epoch(4)


def test_shared_folders_of_a_killed_command_are_removed(tmp_path: Any) -> None:
    kept = [tmp_path / name for name in ("a.pt", ".ray-b.pt-1")]
    for folder in (*kept, tmp_path / ".ray-a.pt-killed" / "ray"):
        folder.mkdir(parents=True)
    with _marked("a.pt", tmp_path, tmp_path / "run") as marks:
        assert sorted(tmp_path.iterdir()) == sorted([*kept, marks[0], tmp_path / "run"])
        assert [mark.parent for mark in marks] == [tmp_path, tmp_path / "run"]
    assert sorted(tmp_path.iterdir()) == sorted([*kept, tmp_path / "run"])
