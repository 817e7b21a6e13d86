"""Several processes train as one does: gradients, item sets, losses of every step, metrics; and what happens when one dies."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_kd.build import build_distiller
from recbole_kd.command_line import main
from recbole_kd.data.teacher_loader import TeacherAwareLoader
from recbole_kd.distiller.table import DISTILLERS, distiller_class
from recbole_kd.errors import TrainingError
from recbole_kd.parallel import Ranks, Shards, several
from recbole_kd.teacher.factors import FactorScores
from tests import ddp_steps
from tests.helpers import TinyData, build_case, build_config
from tests.runs import run, words

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
KD: dict[str, Any] = {"kd": "RCEKD", "kd_k": 5, "kd_n_samples": 5, "kd_candidates": 10, "kd_weight": 2.0}
BY_ROWS = ("RCEKD", "CE", "FullCE", "CD", "RRD", "DCD", "UnKD", "RankDistil", "RD")


def teacher_of(case: Any) -> FactorScores:
    generator = torch.Generator().manual_seed(3)
    n_users, n_items = case.splits.n_users + 1, case.splits.n_items + 1
    return FactorScores(torch.randn(n_users, 6, generator=generator), torch.randn(n_items, 6, generator=generator), {"model": "MF"})


# -- in one process ---------------------------------------------------------------------------------------------------------


def test_the_parts_of_a_table_are_all_of_it() -> None:
    for n in (0, 1, 7, 8):
        rows = [row for rank in range(3) for row in range(n)[Ranks(rank, 3, CPU).slice_of(n)]]
        assert rows == list(range(n))


def test_shards_keep_a_users_rows_and_its_negatives_together(tiny_dataset: TinyData) -> None:
    case = build_case(tiny_dataset, "NeuMF", train_neg_sample_args={"distribution": "uniform", "sample_num": 2})
    np.random.seed(0)
    whole = next(iter(case.loaders.train))
    parts = []
    for rank in range(2):
        kind = type("Loader", (list,), {"_dataset": case.loaders.train._dataset, "times": 3})
        shards = Shards(kind([whole]), Ranks(rank, 2, CPU))
        (part,) = list(shards)
        users = part["user_id"].view(3, -1)
        assert (users == users[0]).all() and (users % 2 == rank).all()
        assert shards.share == len(part) / len(whole)
        parts.append(part)
    assert sum(map(len, parts)) == len(whole)


def gradient(trainer: Any, loader: Any) -> torch.Tensor:
    """Of the first batch."""
    trainer.distiller.begin_epoch(0)
    loader.ask_teacher()
    trainer.model.train()
    base, kd = trainer._losses(next(iter(loader)))
    (base + kd).backward()
    return torch.cat([p.grad.flatten() for p in trainer.model.parameters()])


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("kd", BY_ROWS)
@pytest.mark.parametrize("model", ["MF", "BPR"])
def test_the_parts_gradients_add_up_to_the_whole_batchs(
    tiny_dataset: TinyData, tmp_path: Path, model: str, kd: str, reduction: str
) -> None:
    from recbole_kd.trainer import KDTrainer

    options = {key: value for key, value in KD.items() if key[3:] in distiller_class(kd).__init__.__annotations__ or key == "kd_weight"}
    if kd == "RD":
        options["kd_start_epoch"] = 0
    found = []
    for ranks in (None, Ranks(0, 2, CPU), Ranks(1, 2, CPU)):
        case = build_case(tiny_dataset, model, loss_reduction=reduction, **{**options, "kd": kd, "kd_compare": False, "kd_refresh": 1})
        np.random.seed(5)
        distiller = build_distiller(case.config, case.model, teacher_of(case))
        trainer = KDTrainer(case.config, case.model, distiller, checkpoint=tmp_path / "a.pth", scalars=tmp_path / "s")
        trainer.prepare(case.loaders.train)
        if ranks is not None:
            trainer._shards = Shards(case.loaders.train, ranks)
            trainer._loader = TeacherAwareLoader(trainer._shards, distiller, distiller.teacher_scores)
        found.append(gradient(trainer, trainer._loader))
    whole, one, other = found
    assert whole.abs().max() > 0 and one.abs().max() > 0
    assert torch.allclose(one + other, whole, rtol=1e-5, atol=1e-6 * float(whole.abs().max()))


def test_a_part_without_rows_is_a_zero_that_can_be_differentiated(tiny_dataset: TinyData, tmp_path: Path) -> None:
    from recbole_kd.trainer import KDTrainer

    case = build_case(tiny_dataset, "MF", **KD)
    trainer = KDTrainer(case.config, case.model, build_distiller(case.config, case.model, teacher_of(case)), scalars=tmp_path / "s")
    trainer._shards = Shards(case.loaders.train, Ranks(0, 2, CPU))
    trainer._shards.share = 0.0
    loss = trainer._part_of(lambda: 1 / 0, "mean")
    loss.backward()
    assert float(loss.detach()) == 0 and all(p.grad is not None and not p.grad.any() for p in case.model.parameters())


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"nproc": "0"}, "nproc=0 is not valid: allowed is a whole number of at least 1"),
        ({"nproc": "2", "kd": "FTD"}, "nproc=2 is not possible with kd=FTD, whose loss compares all of a batch's rows"),
        ({"nproc": "2", "teacher": "HSTU"}, "nproc=2 is not possible with HSTU, which trains on histories"),
        ({"nproc": "2", "model": "GRU4Rec"}, "nproc=2 is not possible with GRU4Rec, which trains on histories"),
        ({"nproc": "2", "enable_amp": "True"}, "nproc=2 is not possible with mixed precision"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], more: dict[str, str], text: str) -> None:
    given = [word for word in words(tmp_path, **more) if more.get("kd") is None or not word.startswith("--kd_")]
    assert main(given) == 2
    assert text in capsys.readouterr().err


def test_every_method_is_sorted_into_those_that_can_and_those_that_cannot() -> None:
    refused = {name for name in DISTILLERS if distiller_class(name).needs_items}
    assert refused == {"DE", "DERRD", "FTD", "HTD", "FreqD", "PCKD", "PromptMM"}
    assert set(BY_ROWS) <= set(DISTILLERS) - refused


# -- two processes ----------------------------------------------------------------------------------------------------------


def same_training(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert np.allclose(one["losses"], two["losses"], rtol=1e-5, atol=0)
    scale = max(float(g.abs().max()) for g in one["gradients"])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5 * scale) for a, b in zip(one["gradients"], two["gradients"], strict=True))
    assert one["test"].keys() == two["test"].keys() and all(abs(one["test"][m] - two["test"][m]) <= 1e-4 for m in one["test"])


def test_two_processes_train_as_one(tiny_dataset: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDP_TEST_SETS", str(tmp_path / "sets.json"))
    config = build_config(tiny_dataset, "MF", epochs=3, **KD)
    case = build_case(tiny_dataset, "MF", epochs=3, **KD)
    teacher = teacher_of(case)
    one = ddp_steps.record(copy.deepcopy(config), case.splits, teacher, tmp_path / "one", None)
    two = ddp_steps.both(copy.deepcopy(config), case.splits, teacher, tmp_path / "two")
    assert len(one["losses"]) >= 9
    same_training(one, two)
    # every process has the sets that one alone has
    assert one["sets"] == two["sets"] == json.loads((tmp_path / "sets.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("model", ["MF", "BPR", "NeuMF", "MultiVAE"])
def test_other_students_and_uneven_parts(tiny_dataset: TinyData, tmp_path: Path, model: str) -> None:
    """Three processes; of 16 rows some processes have few or none."""
    given = {"epochs": 2, "train_batch_size": 16, "dropout_prob": 0.0, "clip_grad_norm": {"max_norm": 1.0}, **KD}
    if model == "MultiVAE":
        given["anneal_cap"] = 0.0
    config, case = build_config(tiny_dataset, model, **given), build_case(tiny_dataset, model, **given)
    teacher = teacher_of(case)
    one = ddp_steps.record(copy.deepcopy(config), case.splits, teacher, tmp_path / "one", None)
    two = ddp_steps.both(copy.deepcopy(config), case.splits, teacher, tmp_path / "two", n=3)
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


# -- one of them dies -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "words_"), [("kill", r"rank 1 of 2 was killed \(SIGKILL\)"), ("raise", "rank 1 of 2 failed: ValueError: the disk")]
)
def test_a_process_that_ends_ends_the_others_with_its_reason(how: str, words_: str) -> None:
    started = time.monotonic()
    with pytest.raises(TrainingError, match=words_), several(2, CPU, ddp_steps.fail, how) as ranks:
        assert ranks is not None
        ranks.sum([1.0])
    assert time.monotonic() - started < 60
    assert not multiprocessing.active_children() and not torch.distributed.is_initialized()


@pytest.mark.slow
def test_a_process_that_cannot_begin_is_not_waited_for() -> None:
    started = time.monotonic()
    with (
        pytest.raises(TrainingError, match="rank 1 of 2 failed: ValueError: no such thing here"),
        several(2, CPU, ddp_steps.fail, ddp_steps.Unreadable()),
    ):
        raise AssertionError("it has begun")
    assert time.monotonic() - started < 60 and not multiprocessing.active_children()


@pytest.mark.slow
def test_the_others_end_with_the_one_that_leads(tmp_path: Path) -> None:
    place = tmp_path / "pid"
    leader = subprocess.Popen([sys.executable, "-c", f"from tests import ddp_steps; ddp_steps.lead({str(place)!r})"], cwd=ROOT)
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
    command = [sys.executable, str(ROOT / "run_recbole_kd.py"), *given, "--nproc=2", "--epochs=400", "--stopping_step=400"]
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
