"""TARec: its distances against their definitions, its candidates, and runs with the cached assistant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from scipy.stats import wasserstein_distance
from torch import Tensor

from recbole_kd.cli.run import main
from recbole_kd.distiller.registry import check_options
from recbole_kd.distiller.tarec import TARec
from recbole_kd.errors import ConfigError, TeacherError
from recbole_kd.losses import wasserstein
from recbole_kd.losses.wasserstein import rank_positions, score_positions, sinkhorn, wasserstein_on_line
from recbole_kd.ops.ragged import Ragged
from recbole_kd.pipeline.assistant import NEUTRAL, assistant_values, width_of
from recbole_kd.training import resume_state as resume
from recbole_kd.training.trainer import KDTrainer
from tests.support.runs import results, run, words
from tests.support.stubs import TableScorer, batch_for, dense, no_train_items, padded


def random_scores(n_users: int = 6, n_items: int = 30, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(n_users, n_items, generator=torch.Generator().manual_seed(seed)) * scale


def distributions(n: int = 5, width: int = 9, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """(p, q, positions): two distributions a row, and sorted positions in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    p, q = (torch.softmax(2 * torch.randn(n, width, generator=generator), dim=1) for _ in range(2))
    return p, q, torch.rand(n, width, generator=generator).sort(dim=1).values


def made(student: Tensor, teacher: Tensor, train: Ragged | None = None, **options: Any) -> tuple[TARec, TableScorer]:
    scorer = TableScorer(padded(student))
    distiller = TARec(scorer, dense(teacher), **options)  # type: ignore[arg-type]
    distiller.reduction = "sum"
    distiller.begin_training(no_train_items(scorer.n_queries) if train is None else train)
    distiller.begin_epoch(0)
    return distiller, scorer


# -- distances ---------------------------------------------------------------------------------------------------------


def test_the_toy_of_the_definition() -> None:
    p, q = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.2, 0.3, 0.5]])
    positions = rank_positions(torch.ones(1, 3, dtype=torch.bool))
    assert positions.tolist() == [[0.0, 0.5, 1.0]]
    assert float(wasserstein_on_line(p, q, positions)) == pytest.approx(0.3)


def test_w1_equals_scipys() -> None:
    p, q, positions = distributions()
    found = wasserstein_on_line(p, q, positions)
    for row in range(len(p)):
        expected = wasserstein_distance(positions[row], positions[row], p[row], q[row])
        assert float(found[row]) == pytest.approx(expected, rel=1e-5)


def test_w1_is_the_cost_of_the_best_transport() -> None:
    p, q, positions = (tensor[0].double().numpy() for tensor in distributions(1, 5))
    cost = np.abs(positions[:, None] - positions[None, :]).ravel()
    rows = np.kron(np.eye(5), np.ones(5)), np.kron(np.ones(5), np.eye(5))
    best = linprog(cost, A_eq=np.concatenate(rows), b_eq=np.concatenate([p / p.sum(), q / q.sum()]))
    found = wasserstein_on_line(*(torch.tensor(t).unsqueeze(0) for t in (p / p.sum(), q / q.sum(), positions)))
    assert float(found) == pytest.approx(best.fun, abs=1e-6)


def test_sinkhorn_comes_to_w1() -> None:
    p, q, positions = distributions()
    exact = wasserstein_on_line(p, q, positions)
    assert sinkhorn(p, q, positions, 0.005, 1000).tolist() == pytest.approx(exact.tolist(), abs=0.01)
    assert bool((sinkhorn(p, q, positions, 0.05, 200) >= exact - 1e-4).all()), "the entropy is a cost"


def test_sinkhorns_gradient_is_that_of_its_value() -> None:
    p, q, positions = (tensor.double() for tensor in distributions(3, 6))
    scores = q.log().requires_grad_()
    (gradient,) = torch.autograd.grad(sinkhorn(p, torch.softmax(scores, dim=1), positions, 0.1, 2000).sum(), scores)
    for row, column in ((0, 0), (1, 3), (2, 5)):
        values = []
        for step in (1e-4, -1e-4):
            moved = scores.detach().clone()
            moved[row, column] += step
            values.append(float(sinkhorn(p, torch.softmax(moved, dim=1), positions, 0.1, 2000).sum()))
        assert float(gradient[row, column]) == pytest.approx((values[0] - values[1]) / 2e-4, rel=1e-4, abs=1e-7)


def test_sinkhorn_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    p, q, positions = distributions()
    whole = sinkhorn(p, q, positions, 0.05, 20)
    monkeypatch.setattr(wasserstein, "BLOCK_BYTES", 1)
    torch.testing.assert_close(sinkhorn(p, q, positions, 0.05, 20), whole)


def test_positions() -> None:
    valid = torch.tensor([[True, True, True, False], [True, False, False, False], [False] * 4])
    assert rank_positions(valid).tolist() == [[0.0, 0.5, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0]]
    scores = torch.tensor([[5.0, 4.0, 1.0, 0.0], [2.0, 0.0, 0.0, 0.0], [0.0] * 4])
    assert score_positions(scores, valid).tolist() == [[0.0, 0.25, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0], [1.0] * 4]
    assert score_positions(torch.full((1, 3), 7.0), torch.ones(1, 3, dtype=torch.bool)).tolist() == [[0.0, 0.0, 0.0]]


# -- the loss, user by user --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", ["rank", "score", "sinkhorn"])
def test_the_loss_equals_its_definition_user_by_user(distance: str) -> None:
    student, teacher = random_scores(seed=1), random_scores(seed=2)
    options = {"k": 6, "n_negatives": 5, "temperature": 2.0, "distance": distance, "epsilon": 0.01, "n_iterations": 500}
    distiller, _ = made(student, teacher, **options)
    found = 0.0
    for user in range(6):
        items = [int(i) - 1 for i in distiller.item_sets["candidates"][user + 1] if i]
        items.sort(key=lambda i, row=user: -float(teacher[row, i]))
        p, q = (torch.softmax(scores[user, items] / 2, dim=0).double().numpy() for scores in (teacher, student))
        x = np.arange(len(items)) / (len(items) - 1)
        if distance != "rank":
            own = teacher[user, items].numpy()
            x = (own[0] - own) / (own[0] - own[-1])
        found += (1 + (user == 2)) * wasserstein_distance(x, x, p, q)
    loss = distiller(batch_for(distiller, [1, 2, 3, 3, 4, 5, 6]))
    assert float(loss.detach()) == pytest.approx(found, rel=1e-4 if distance != "sinkhorn" else 0.15)


@pytest.mark.parametrize("distance", ["rank", "score", "sinkhorn"])
def test_a_student_that_agrees_has_no_loss_and_learning_lowers_it(distance: str) -> None:
    student, teacher = random_scores(seed=1), random_scores(seed=2)
    distiller, scorer = made(student, teacher, k=6, n_negatives=8, distance=distance, epsilon=0.05)
    batch = batch_for(distiller, [1, 2, 3, 4, 5, 6])
    optimizer = torch.optim.Adam([scorer.table], lr=0.05)
    before = float(distiller(batch).detach())
    for _ in range(60):
        optimizer.zero_grad()
        distiller(batch).backward()
        optimizer.step()
    assert float(distiller(batch).detach()) < 0.6 * before
    agreeing, _ = made(teacher, teacher, k=6, n_negatives=8, distance=distance, epsilon=0.002)
    assert float(agreeing(batch_for(agreeing, [1, 2])).detach()) == pytest.approx(
        0.0, abs=1e-5 if distance != "sinkhorn" else 0.02
    )


@pytest.mark.parametrize("distance", ["rank", "score", "sinkhorn"])
@pytest.mark.parametrize("n_items", [2, 5, 30])
def test_huge_scores_and_tiny_catalogues_stay_finite(distance: str, n_items: int) -> None:
    rng = np.random.default_rng(0)
    train = Ragged.from_pairs(rng.integers(1, 6, 12), rng.integers(1, n_items + 1, 12), 7)
    student, teacher = random_scores(6, n_items, 1, 1e4), random_scores(6, n_items, 2, 1e4)
    distiller, scorer = made(student, teacher, train, k=n_items, n_negatives=n_items, distance=distance)
    loss = distiller(batch_for(distiller, [1, 2, 3, 4, 5, 6]))
    loss.backward()
    assert torch.isfinite(loss) and scorer.table.grad is not None and bool(torch.isfinite(scorer.table.grad).all())
    excluded = {(q, int(i)) for q in range(7) for i in train.items[train.starts[q] : train.starts[q + 1]]}
    assert not scorer.table.grad[:, 0].any() and not any(scorer.table.grad[q, i] for q, i in excluded)


def test_the_mean_with_the_teachers_own_distance() -> None:
    student, assistant, teacher = (random_scores(seed=seed) for seed in (1, 2, 3))
    scorer = TableScorer(padded(student))
    upstream = dense(assistant)
    upstream.taught_by = dense(teacher)
    losses = []
    for share in (0.0, 1.0, 0.5):
        distiller = TARec(scorer, upstream, k=6, n_negatives=5, teacher_share=share, seed=4)  # type: ignore[arg-type]
        distiller.begin_training(no_train_items(7))
        distiller.begin_epoch(0)
        losses.append(float(distiller(batch_for(distiller, [1, 4])).detach()))
    assert losses[0] != losses[1] and losses[2] == pytest.approx((losses[0] + losses[1]) / 2)
    with pytest.raises(TeacherError, match=r"kd_teacher_share=0\.5 needs an assistant"):
        TARec(scorer, dense(teacher), teacher_share=0.5)  # type: ignore[arg-type]


# -- candidates --------------------------------------------------------------------------------------------------------


def test_candidates_are_the_top_and_fresh_negatives() -> None:
    train = Ragged.from_pairs(np.array([1, 1, 2]), np.array([5, 9, 7]), 7)
    distiller, _ = made(random_scores(seed=1), random_scores(seed=2), train, k=6, n_negatives=5)
    first = distiller.item_sets["candidates"].clone()
    top = distiller.teacher_scores.top_k(distiller.all_queries(), 6, train)[0]
    distiller.begin_epoch(1)
    assert torch.equal(first[:, :6], top) and torch.equal(distiller.item_sets["candidates"][:, :6], top)
    assert not torch.equal(first, distiller.item_sets["candidates"])
    for user, items in ((1, {5, 9}), (2, {7})):
        assert not items & set(first[user].tolist())
    assert all(len(set(row)) == len(row) for row in ([i for i in ids if i] for ids in first.tolist()))
    assert distiller.diagnostics()["candidates_mean"] > 6


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("k", 0), ("k", 31), ("n_negatives", -1), ("temperature", 0.0), ("epsilon", 0.0), ("n_iterations", 0),
        ("teacher_share", 1.5),
        ("distance", "kl"), ("assistant_size", 0), ("assistant_epochs", 0), ("assistant_learning_rate", 0.0),
        ("assistant_weight", -1.0),
        ("assistant_stopping_step", -1),
    ],
)  # fmt: skip
def test_impossible_options(option: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"kd_{option}="):
        check_options(TARec, {"k": 10, "n_negatives": 10, option: value}, 6, 30)


# -- the assistant -----------------------------------------------------------------------------------------------------


def test_an_assistant_of_one_width_is_in_between_in_depth() -> None:
    student = {"model": "HSTUGeneral", "dataset": "tiny", "kd": "TARec", "embedding_size": 64, "n_layers": 1}
    teacher = {"model": "HSTUGeneral", "embedding_size": 64, "n_layers": 8}
    assert assistant_values(student, teacher) == {"embedding_size": 64, "n_layers": 3, **NEUTRAL}
    assert assistant_values(student, {**teacher, "embedding_size": 256}) == {"embedding_size": 128, **NEUTRAL}
    assert assistant_values(student, {**teacher, "model": "LightGCN"}) == {"embedding_size": 64, **NEUTRAL}
    assert assistant_values({**student, "kd_assistant_size": 32}, teacher) == {"embedding_size": 32, **NEUTRAL}


def test_what_an_assistant_has_other_than_the_student() -> None:
    student = {
        "model": "MF",
        "dataset": "tiny",
        "kd": "TARec",
        "embedding_size": 20,
        "kd_assistant_epochs": 7,
        "kd_assistant_weight": None,
    }
    assert assistant_values(student, {"embedding_size": 400}) == {"embedding_size": 89, "epochs": 7, **NEUTRAL}
    assert assistant_values({**student, "kd_assistant_size": 64}, {})["embedding_size"] == 64
    with pytest.raises(ConfigError, match="needs kd_assistant_size"):
        assistant_values(student, {})
    with pytest.raises(ConfigError, match="NeuMF has no such key"):
        assistant_values({**student, "model": "NeuMF"}, {"embedding_size": 400})
    assert width_of({"embedding_size": 8}) == 8 and width_of({}) is None


OURS: dict[str, Any] = {"kd": "TARec", "kd_n_samples": None, "kd_candidates": None, "kd_compare": "False"}


def test_a_run_with_its_assistant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = run(tmp_path, **OURS, kd_n_negatives="5")
    assert "assistant MF" in capsys.readouterr().out
    assistant = first["assistant"]
    assert not assistant["cached"] and assistant["epochs"] == 3 and len(assistant["kd_loss"]) == 3
    assert assistant["parameters"] == 70 * 6 + 2 * 6, (
        "6 is the geometric mean of 4 and 8, for 30 users, 40 items and the pads"
    )
    assert set(assistant["test"]) == set(first["distilled"]["test"])
    second = run(tmp_path, **OURS, kd_n_negatives="5")
    assert second["assistant"]["cached"] and second["distilled"]["test"] == first["distilled"]["test"]
    both = run(
        tmp_path, **OURS, kd_n_negatives="5", kd_teacher_share="0.5", kd_assistant_weight="100.0", kd_weight="7.0"
    )
    assert both["assistant"]["cached"], "what only the student's stage reads trains no other assistant"
    assert both["distilled"]["kd_loss"] != first["distilled"]["kd_loss"]
    other = run(
        tmp_path, **OURS, kd_n_negatives="5", kd_assistant_epochs="1", kd_assistant_size="5", kd_distance="score"
    )
    assert not other["assistant"]["cached"] and other["assistant"]["epochs"] == 1 and other["distilled"]["epochs"] == 3
    assert other["assistant"]["parameters"] == 72 * 5


def test_a_saved_teacher_has_an_assistant_too(tmp_path: Path) -> None:
    first = run(tmp_path, **OURS, kd_n_negatives="5")
    named = {**OURS, "teacher": None, "teacher.epochs": None, "teacher.embedding_size": None, "kd_n_negatives": "5"}
    again = run(tmp_path, **named, teacher_path=first["teacher"]["path"])
    assert again["assistant"]["cached"] and again["distilled"]["test"] == first["distilled"]["test"]


def test_two_checkpoints_of_one_model_have_an_assistant_each(tmp_path: Path) -> None:
    own = {
        "teacher": None,
        "teacher.epochs": None,
        "teacher.embedding_size": None,
        "kd_n_negatives": "5",
        "kd_assistant_size": "6",
    }
    made = [run(tmp_path, seed=seed, split_seed="0")["folder"] for seed in ("1", "2")]
    named = {**OURS, **own, "split_seed": "0", "kd_assistant_epochs": "1", "epochs": "1"}
    runs = [run(tmp_path, **named, teacher_path=str(Path(folder) / "MF.pth")) for folder in (made[0], made[1], made[0])]
    assert [result["assistant"]["cached"] for result in runs] == [False, False, True]
    assert runs[0]["assistant"]["kd_loss"] != runs[1]["assistant"]["kd_loss"]


def test_a_dense_teacher_and_a_student_without_width(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(
        tmp_path, **OURS, teacher_store="dense", kd_distance="sinkhorn", kd_n_negatives="5", kd_n_iterations="5"
    )
    assert result["assistant"]["kd_loss"][0] > 0
    assert main(words(tmp_path, **OURS, model="NeuMF", kd_n_negatives="5")) == 2
    assert "NeuMF has no such key" in capsys.readouterr().err


@pytest.mark.parametrize(("which", "stage"), [(2, "assistant"), (3, "distilled")])
def test_continues_to_the_same_result(which: int, stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {**OURS, "kd_n_negatives": "5", "epochs": "5"}
    monkeypatch.setattr(resume, "SHARE_OF_TIME", 1e9)  # a state after every epoch
    whole = run(tmp_path / "whole", **changes)
    broken, plain, seen = tmp_path / "broken", KDTrainer._valid_epoch, [0]
    broken.mkdir()

    def cut(self: KDTrainer, *args: Any, **kwargs: Any) -> Any:
        seen[0] += self._epoch == 0
        if seen[0] == which and self._epoch == 3:
            raise KeyboardInterrupt
        return plain(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(KDTrainer, "_valid_epoch", cut)
        with pytest.raises(KeyboardInterrupt):
            main(words(broken, **changes))
    assert not results(broken)
    resumed = run(broken, "--resume=True", **changes)
    assert "from epoch 3" in (resumed["folder"] / "run.log").read_text()
    assert resumed["assistant"]["cached"] is (stage == "distilled")
    for name in ("assistant", "distilled"):
        assert resumed[name]["test"] == whole[name]["test"] and resumed[name]["kd_loss"] == whole[name]["kd_loss"]
    assert not [path for path in (broken / "cache").rglob("*") if ".work" in path.name or path.suffix == ".pt"]
