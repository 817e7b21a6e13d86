"""Several processes train as one does: gradients, item sets, losses of every step, metrics.

The tests also cover a process that dies.
"""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.utils import init_seed

from recbole_kd.cli.run import main
from recbole_kd.distiller.registry import DISTILLERS, distiller_class
from recbole_kd.distributed.data_parallel import Ranks, ShardLoader, several
from recbole_kd.distributed.loss_terms import BY_ROWS as MEANS
from recbole_kd.distributed.loss_terms import SharedNorms
from recbole_kd.errors import TrainingError
from recbole_kd.teacher.stores.factors import FactorScores
from recbole_kd.training.build_distiller import build_distiller
from recbole_kd.training.teacher_loader import TeacherAwareLoader
from tests.support import ddp_steps, paths
from tests.support.helpers import TinyData, build_case, build_config, write_tiny
from tests.support.multimodal import featured
from tests.support.runs import run, words

ROOT = paths.ROOT
CPU = torch.device("cpu")
KD: dict[str, Any] = {"kd": "RCEKD", "kd_k": 5, "kd_n_samples": 5, "kd_candidates": 10, "kd_weight": 2.0}
DROPOUTS = ("dropout_prob", "hidden_dropout_prob", "attn_dropout_prob", "input_dropout", "linear_dropout", "dropout")
WITHOUT_DROPOUT: dict[str, Any] = dict.fromkeys(DROPOUTS, 0.0)
BY_ROWS = ("RCEKD", "CE", "FullCE", "CD", "RRD", "DCD", "UnKD", "RankDistil", "RD")


def teacher_of(case: Any) -> FactorScores:
    generator = torch.Generator().manual_seed(3)
    n_users, n_items = case.splits.n_users + 1, case.splits.n_items + 1
    return FactorScores(
        torch.randn(n_users, 6, generator=generator), torch.randn(n_items, 6, generator=generator), {"model": "MF"}
    )


# -- in one process
# ---------------------------------------------------------------------------------------------------------


def test_the_parts_of_a_table_are_all_of_it() -> None:
    for n in (0, 1, 7, 8):
        for grain in (1, 2, 3, 10):
            parts = [Ranks(rank, 3, CPU).slice_of(n, grain) for rank in range(3)]
            assert [row for part in parts for row in range(n)[part]] == list(range(n))
            assert all(part.start % grain == 0 or part.start == n for part in parts)


def test_shards_keep_a_users_rows_and_its_negatives_together(tiny_dataset: TinyData) -> None:
    case = build_case(tiny_dataset, "NeuMF", train_neg_sample_args={"distribution": "uniform", "sample_num": 2})
    np.random.seed(0)
    whole = next(iter(case.loaders.train))
    parts = []
    for rank in range(2):
        kind = type("Loader", (list,), {"_dataset": case.loaders.train._dataset, "times": 3})
        shards = ShardLoader(kind([whole]), Ranks(rank, 2, CPU))
        (part,) = list(shards)
        users = part["user_id"].view(3, -1)
        assert (users == users[0]).all() and (users % 2 == rank).all()
        assert (
            part.shard.counts
            and part.shard.whole is whole
            and torch.equal(whole["user_id"][part.shard.mine], part["user_id"])
        )
        assert part.shard.share(torch.ones(len(whole))) == len(part) / len(whole)
        parts.append(part)
    assert sum(map(len, parts)) == len(whole)


def first_losses(case: Any, folder: Path, ranks: Ranks | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the first batch: base and KD loss, and their gradient."""
    from recbole_kd.training.trainer import KDTrainer

    np.random.seed(5)
    distiller = build_distiller(case.config, case.model, teacher_of(case), case.loaders.train)
    trainer = KDTrainer(case.config, case.model, distiller, checkpoint=folder / "a.pth", scalars=folder / "s")
    trainer.prepare(case.loaders.train)
    loader = trainer._loader
    if ranks is not None:
        trainer._shards = ShardLoader(case.loaders.train, ranks)
        loader = TeacherAwareLoader(trainer._shards, distiller, distiller.teacher_scores)
    distiller.begin_epoch(0)
    loader.ask_teacher()
    trainer.model.train()
    trainer._base_loss.negatives_times = getattr(case.loaders.train, "times", 1)
    losses = torch.stack(trainer._losses(next(iter(loader))))
    losses.sum().backward()
    return losses.detach(), torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


def assert_parts_add_up(data: TinyData, folder: Path, model: str, n: int = 2, **given: Any) -> None:
    """The losses of all processes' parts of a batch, and their gradients, against those of one process."""
    whole, *parts = (
        first_losses(build_case(data, model, **given), folder, rank)
        for rank in (None, *(Ranks(r, n, CPU) for r in range(n)))
    )
    assert (whole[0] > 0).all() and all((losses > 0).any() for losses, _ in parts)
    assert torch.allclose(sum(losses for losses, _ in parts), whole[0], rtol=1e-5, atol=0)
    assert torch.allclose(
        sum(gradients for _, gradients in parts), whole[1], rtol=1e-5, atol=1e-6 * float(whole[1].abs().max())
    )


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("kd", BY_ROWS)
@pytest.mark.parametrize("model", ["MF", "BPR"])
def test_the_parts_gradients_add_up_to_the_whole_batchs(
    tiny_dataset: TinyData, tmp_path: Path, model: str, kd: str, reduction: str
) -> None:
    options = {
        key: value
        for key, value in KD.items()
        if key[3:] in distiller_class(kd).__init__.__annotations__ or key == "kd_weight"
    }
    if kd == "RD":
        options["kd_start_epoch"] = 0
    assert_parts_add_up(
        tiny_dataset, tmp_path, model, loss_reduction=reduction, **{**options, "kd": kd, "kd_compare": False}
    )


@pytest.mark.parametrize(
    "more",
    [{}, {"loss_reduction": "sum"}, {"kd_faithful": "paper"}, {"negatives": "shared"}, {"loss": "full_softmax"}],
)
@pytest.mark.parametrize("model", ["HSTUGeneral", "HSTU"])
def test_a_mean_over_positions_is_shared_out_by_positions(
    tiny_dataset: TinyData, tmp_path: Path, model: str, more: dict[str, Any]
) -> None:
    """Users have histories of 3 to 10 items: a share by rows would be wrong."""
    given = {"loss": "sampled_softmax", "train_batch_size": 16, **WITHOUT_DROPOUT, **KD, **more}
    assert_parts_add_up(tiny_dataset, tmp_path, model, n=3, **given)


BY_USER: dict[str, Any] = {"train_by_user": True}
BPR_LOSS: dict[str, Any] = {"loss_type": "BPR", "train_neg_sample_args": {"distribution": "uniform", "sample_num": 2}}


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("SASRec", {}), ("GRU4Rec", {}), ("NeuMF", {}),
        ("SASRec", BY_USER), ("GRU4Rec", BY_USER | {"MAX_ITEM_LIST_LENGTH": 3}), ("SASRec", BY_USER | BPR_LOSS),
    ],
)  # fmt: skip
def test_means_over_rows_and_queries(tiny_dataset: TinyData, tmp_path: Path, model: str, more: dict[str, Any]) -> None:
    given = {**WITHOUT_DROPOUT, **KD, "kd_faithful": "paper", "train_batch_size": 96, **more}
    assert_parts_add_up(tiny_dataset, tmp_path, model, **given)


def base_loss(case: Any, folder: Path, ranks: Ranks | None) -> tuple[float, torch.Tensor]:
    """Of the first batch, without a teacher; and its gradient."""
    from recbole_kd.training.trainer import KDTrainer

    trainer = KDTrainer(case.config, case.model, checkpoint=folder / "a.pth", scalars=folder / "s")
    trainer._base_loss.negatives_times = getattr(case.loaders.train, "times", 1)
    init_seed(7, True)
    case.model.train()
    loss = trainer._base_loss(
        next(iter(case.loaders.train if ranks is None else ShardLoader(case.loaders.train, ranks)))
    )
    total = sum(loss) if isinstance(loss, tuple) else loss
    total.sum().backward()
    return float(total.detach()), torch.cat([p.grad.flatten() for p in case.model.parameters() if p.grad is not None])


@pytest.mark.slow
@pytest.mark.parametrize("model", sorted(MEANS - {"MultiVAE"}))  # which draws noise for each row
def test_what_is_said_of_recboles_models_is_so(tmp_path: Path, model: str) -> None:
    data, given = write_tiny(tmp_path, "tiny"), {**WITHOUT_DROPOUT, "dropout_probs": [0.0, 0.0], "n_samples": 4}
    make = featured if model == "BM3" else partial(build_case, model=model)
    whole, one, other = (
        base_loss(make(data, **given), tmp_path, ranks) for ranks in (None, Ranks(0, 2, CPU), Ranks(1, 2, CPU))
    )
    assert one[0] + other[0] == pytest.approx(whole[0], rel=1e-5)
    assert torch.allclose(one[1] + other[1], whole[1], rtol=1e-5, atol=2e-6 * float(whole[1].abs().max()))


def test_a_process_without_rows_takes_another_users_and_counts_them_zero_times(
    tiny_dataset: TinyData, tmp_path: Path
) -> None:
    case = build_case(tiny_dataset, "HSTU", train_batch_size=2, **WITHOUT_DROPOUT, **KD)
    losses, gradient = first_losses(case, tmp_path, None)
    after, found = np.random.get_state()[2], []
    for rank in range(5):
        case = build_case(tiny_dataset, "HSTU", train_batch_size=2, **WITHOUT_DROPOUT, **KD)
        found.append(first_losses(case, tmp_path, Ranks(rank, 5, CPU)))
        assert np.random.get_state()[2] == after  # all draw alike
    empty = [not losses.any() for losses, _ in found]
    assert sum(empty) >= 3 and all(not gradient.any() for none, (_, gradient) in zip(empty, found, strict=True) if none)
    assert torch.allclose(sum(some for some, _ in found), losses, rtol=1e-5, atol=0)
    assert torch.allclose(sum(some for _, some in found), gradient, rtol=1e-5, atol=1e-6)


def test_norms_of_parts_add_up_to_the_norm_of_all() -> None:
    from recbole.model.loss import EmbLoss

    tables = [torch.randn(9, 4, requires_grad=True) for _ in range(3)]
    squares = torch.stack([(t * t).sum() for t in tables]).detach()
    for more in ({}, {"require_pow": True}):
        whole = EmbLoss()(*tables, **more)
        wanted = torch.autograd.grad(whole, tables)
        parts = [
            SharedNorms(lambda _: squares)(*(t[rows] for t in tables), **more) * share
            for rows, share in ((slice(2), 2 / 9), (slice(2, 9), 7 / 9))
        ]
        assert torch.allclose(sum(parts), whole)
        found = torch.autograd.grad(sum(parts), tables)
        assert all(torch.allclose(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"nproc": "0"}, "Invalid --nproc=0: expected an integer of at least 1. Try --nproc=1."),
        ({"nproc": "2", "kd": "FTD"}, "nproc=2 is not possible with kd=FTD, whose loss compares all of a batch's rows"),
        (
            {"nproc": "2", "teacher": "SGL"},
            "nproc=2 is not possible with SGL, whose loss is not known to be a mean over rows",
        ),
        (
            {"nproc": "2", "model": "BERT4Rec"},
            "nproc=2 is not possible with BERT4Rec, whose loss is not known to be a mean over rows",
        ),
        ({"nproc": "2", "enable_amp": "True"}, "nproc=2 is not possible with mixed precision"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: dict[str, str], text: str
) -> None:
    given = [word for word in words(tmp_path, **more) if more.get("kd") is None or not word.startswith("--kd_")]
    assert main(given) == 2
    assert text in capsys.readouterr().err


def test_every_method_is_sorted_into_those_that_can_and_those_that_cannot() -> None:
    refused = {name for name in DISTILLERS if distiller_class(name).needs_items}
    assert refused == {"DE", "DERRD", "FTD", "HTD", "FreqD", "PCKD", "PromptMM"}
    assert set(BY_ROWS) <= set(DISTILLERS) - refused


# -- two processes
# ----------------------------------------------------------------------------------------------------------


def same_training(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert np.allclose(one["losses"], two["losses"], rtol=1e-5, atol=0)
    assert one["means"] == pytest.approx(two["means"], rel=1e-4)
    scale = max(float(g.abs().max()) for g in one["gradients"])
    assert all(
        torch.allclose(a, b, rtol=1e-4, atol=1e-5 * scale)
        for a, b in zip(one["gradients"], two["gradients"], strict=True)
    )
    assert one["test"].keys() == two["test"].keys() and all(
        abs(one["test"][m] - two["test"][m]) <= 1e-4 for m in one["test"]
    )


def job_of(data: TinyData, model: str, **given: Any) -> ddp_steps.Job:
    """The training of a model by a teacher."""
    config, case = build_config(data, model, **given), build_case(data, model, **given)
    return config, case.splits, teacher_of(case)


def one_and_several(
    folder: Path, jobs: Sequence[ddp_steps.Job], n: int = 2, block_bytes: int | None = None
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The same trainings by one process and by n."""
    alone = [(copy.deepcopy(config), *rest) for config, *rest in jobs]
    one = ddp_steps.recorded(alone, folder / "one", None, block_bytes)
    return list(zip(one, ddp_steps.both(jobs, folder / "two", n, block_bytes), strict=True))


def test_two_processes_train_as_one(tiny_dataset: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes train MF, then HSTU."""
    monkeypatch.setenv("DDP_TEST_SETS", str(tmp_path / "sets.json"))
    mf = job_of(tiny_dataset, "MF", epochs=3, **KD)
    hstu = job_of(tiny_dataset, "HSTU", epochs=3, train_batch_size=16, **WITHOUT_DROPOUT, **KD)
    found = one_and_several(tmp_path, [mf, hstu])
    sets_there = json.loads((tmp_path / "sets.json").read_text())
    for (one, two), steps, there in zip(found, (9, 6), sets_there, strict=True):
        assert len(one["losses"]) >= steps
        same_training(one, two)
        assert one["sets"] == two["sets"] == there  # every process has the sets that one alone has


@pytest.mark.slow
@pytest.mark.parametrize("model", ["MF", "HSTU"])
def test_draws_from_the_whole_catalogue_are_shared_out_and_the_same(
    tiny_dataset: TinyData, tmp_path: Path, model: str
) -> None:
    """kd_faithful=paper, in blocks of four queries: item sets of every step, bit by bit."""
    given = {"epochs": 3, "train_batch_size": 16, "kd_faithful": "paper", **WITHOUT_DROPOUT, **KD}
    del given["kd_candidates"]
    ((one, two),) = one_and_several(tmp_path, [job_of(tiny_dataset, model, **given)], 3, block_bytes=4 * 4 * 41)
    same_training(one, two)
    assert one["sets"] == two["sets"] and len(set(one["sets"])) == 3


@pytest.mark.slow
@pytest.mark.parametrize("model", ["MF", "BPR", "NeuMF", "MultiVAE", "LightGCN", "HSTU", "HSTUGeneral", "SASRec"])
def test_other_students_and_uneven_parts(tiny_dataset: TinyData, tmp_path: Path, model: str) -> None:
    """Three processes; of 16 rows some processes have few or none."""
    given = {"epochs": 2, "train_batch_size": 16, "clip_grad_norm": {"max_norm": 1.0}, **WITHOUT_DROPOUT, **KD}
    given.update(reg_weight=0.1)  # of LightGCN
    if model == "MultiVAE":
        given["anneal_cap"] = 0.0
    ((one, two),) = one_and_several(tmp_path, [job_of(tiny_dataset, model, **given)], 3)
    if model == "MultiVAE":  # draws its latent noise row by row: alike, not equal
        assert np.allclose(one["losses"], two["losses"], rtol=0.05)
    else:
        same_training(one, two)


@pytest.mark.slow
def test_a_whole_run_with_two_processes(tmp_path: Path) -> None:
    runs = {}
    for n in ("1", "2"):
        (tmp_path / n).mkdir()
        runs[n] = run(tmp_path / n, f"--nproc={n}")
    for stage in ("teacher", "student", "distilled"):
        for phase in ("valid", "test"):
            one, two = (runs[n][stage][phase] for n in ("1", "2"))
            assert all(abs(one[metric] - two[metric]) <= 1e-4 for metric in one), (stage, phase)
    assert np.allclose(runs["1"]["distilled"]["kd_loss"], runs["2"]["distilled"]["kd_loss"], rtol=1e-4)


# -- one of them dies
# -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "words_"),
    [("kill", r"rank 1 of 2 was killed \(SIGKILL\)"), ("raise", "rank 1 of 2 failed: ValueError: the disk")],
)
def test_a_process_that_ends_ends_the_others_with_its_reason(how: str, words_: str) -> None:
    started = time.monotonic()
    with pytest.raises(TrainingError, match=words_), several(2, CPU, partial(ddp_steps.fail, how)) as ranks:
        assert ranks is not None
        ranks.sum([1.0])
    assert time.monotonic() - started < 60
    assert not multiprocessing.active_children() and not torch.distributed.is_initialized()


@pytest.mark.slow
def test_a_process_that_cannot_begin_is_not_waited_for() -> None:
    started = time.monotonic()
    with (
        pytest.raises(TrainingError, match="rank 1 of 2 failed: ValueError: no such thing here"),
        several(2, CPU, partial(ddp_steps.fail, ddp_steps.Unreadable())),
    ):
        raise AssertionError("it has begun")
    assert time.monotonic() - started < 60 and not multiprocessing.active_children()


@pytest.mark.slow
def test_the_others_end_with_the_one_that_leads(tmp_path: Path) -> None:
    place = tmp_path / "pid"
    leader = subprocess.Popen(
        [sys.executable, "-c", f"from tests.support import ddp_steps; ddp_steps.lead({str(place)!r})"], cwd=ROOT
    )
    end = time.monotonic() + 60
    while not (place.is_file() and place.read_text()):
        assert leader.poll() is None and time.monotonic() < end
        time.sleep(0.2)
    follower = Path("/proc") / place.read_text()
    leader.kill()
    leader.wait()
    while follower.exists() and "\nState:\tZ" not in (follower / "status").read_text():
        assert time.monotonic() < end + 60
        time.sleep(0.2)


@pytest.mark.slow
def test_a_run_whose_second_process_is_killed_says_so_and_goes_on_later(tmp_path: Path) -> None:
    given = [word for word in words(tmp_path) if not word.startswith("--epochs")]
    command = [
        sys.executable,
        str(ROOT / "run_recbole_kd.py"),
        *given,
        "--nproc=2",
        "--epochs=400",
        "--stopping_step=400",
    ]
    command += ["--kd_compare=False", "--state=INFO"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    states = tmp_path / "cache" / "distilled"
    end = time.monotonic() + 120
    while not list(states.glob("*.pt")):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.2)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(ranks) == 1
    started = time.monotonic()
    os.kill(ranks[0], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - started < 60 and process.returncode == 2
    assert "error: rank 1 of 2 was killed (SIGKILL): the others have ended" in err and "Traceback" not in err
    assert list(states.glob("*.pt"))
    again = subprocess.run([*command, "--resume=True"], cwd=tmp_path, capture_output=True, text=True, timeout=180)
    assert again.returncode == 0, again.stderr
    assert "Continuing MF from epoch" in again.stderr and not list(states.glob("*.pt"))
