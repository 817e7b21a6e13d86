"""RCE-KD equals the published class on given sets, and a naive implementation of the paper.

It is well-behaved at the edges.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recbole_kd.distiller import rcekd_sets as module
from recbole_kd.distiller.base import DistillBatch, Distiller
from recbole_kd.distiller.rcekd import RCEKD
from recbole_kd.distiller.rcekd_gamma import gamma_weights
from recbole_kd.distiller.registry import check_options, distiller_class, distiller_options, resolve_options
from recbole_kd.errors import ConfigError
from recbole_kd.losses.cross_entropy import cross_entropy
from recbole_kd.ops import compiled as compiled_ops
from recbole_kd.ops import compiled_lists
from recbole_kd.ops.ragged import Ragged
from recbole_kd.teacher.stores.dense import DenseScores
from recbole_kd.teacher.stores.factors import FactorScores
from tests.support import paths
from tests.support.stubs import TableScorer, batch_for, dense, no_train_items, padded

REFERENCE = json.loads((paths.REFERENCE / "rcekd.json").read_text())["cases"]


def made(
    student: Tensor,
    teacher: Tensor,
    train: Ragged | None = None,
    *,
    reduction: str = "sum",
    seed: int = 0,
    **options: Any,
) -> tuple[RCEKD, TableScorer]:
    """A distiller over unpadded score matrices, its first epoch begun."""
    scorer = TableScorer(padded(student))
    distiller = RCEKD(scorer, dense(teacher), seed=seed, **options)  # type: ignore[arg-type]
    distiller.reduction = reduction
    distiller.begin_training(no_train_items(scorer.n_queries) if train is None else train)
    distiller.begin_epoch(0)
    return distiller, scorer


def loss_of(distiller: RCEKD, users: list[int]) -> float:
    return float(distiller(batch_for(distiller, users)).detach())


def train_of(train: Ragged | None, user: int) -> set[int]:
    """Training items of a user, both from 0."""
    return set() if train is None else set((train.items[train.starts[user + 1] : train.starts[user + 2]] - 1).tolist())


@pytest.fixture
def plain_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw in plain torch, where the draw can be watched and replaced."""
    monkeypatch.setattr(compiled_lists, "draw_sets", lambda *_, **__: None)


@pytest.fixture
def log_weights(monkeypatch: pytest.MonkeyPatch, plain_draw: None) -> list[Tensor]:
    """The log-weights of every draw, as they come."""
    captured: list[Tensor] = []
    plain, by_count = module.sample_without_replacement, module.draw_by_count

    def spy(weights: Tensor, n: int, generator: torch.Generator) -> Tensor:
        captured.append(weights.clone())
        return plain(weights, n, generator)

    def spy_by_count(counts: Tensor, n: int, tau: float, n_levels: int, generator: torch.Generator) -> Tensor:
        assert int(counts.max()) < n_levels
        captured.append((counts / tau).masked_fill(counts < 0, -torch.inf))
        return by_count(counts, n, tau, n_levels, generator)

    monkeypatch.setattr(module, "draw_by_count", spy_by_count)

    monkeypatch.setattr(module, "sample_without_replacement", spy)
    return captured


def random_scores(n_users: int = 7, n_items: int = 30, seed: int = 0, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(n_users, n_items, generator=generator) * scale
    return 0.5 * teacher + torch.randn(n_users, n_items, generator=generator) * scale, teacher


def random_train(n_users: int = 7, n_items: int = 30, share: float = 0.2, seed: int = 0) -> Ragged:
    users, items = np.nonzero(np.random.default_rng(seed).random((n_users, n_items)) < share)
    return Ragged.from_pairs(users + 1, items + 1, n_users + 1)


# -- the published class -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", REFERENCE, ids=["random-1", "random-2", "random-3", "extreme", "clamped"])
def test_code_mode_equals_the_published_class(
    case: dict[str, Any], monkeypatch: pytest.MonkeyPatch, plain_draw: None
) -> None:
    student, teacher = torch.tensor(case["student"]), torch.tensor(case["teacher"])
    sampled = torch.tensor(case["sampled"]) + 1
    seen: list[Tensor] = []

    def given_sample(log_weights: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """The published run's own draw, as places in the student's ranking."""
        seen.append(log_weights[1:])
        ranked = TableScorer(padded(student)).top_k(torch.arange(len(student) + 1), case["candidates"])[0]
        places = (ranked[1:].unsqueeze(1) == sampled.unsqueeze(2)).int().argmax(2)
        return torch.cat([places[:1], places])

    monkeypatch.setattr(module, "sample_without_replacement", given_sample)
    names = ("k", "n_samples", "candidates", "beta", "tau", "temperature")
    distiller, _ = made(student, teacher, **{name: case[name] for name in names})
    torch.testing.assert_close(seen[0] * case["tau"], torch.tensor(case["counts"]))
    assert torch.equal(distiller.item_sets["teacher_list"][1:], torch.tensor(case["teacher_list"]) + 1)
    assert torch.equal(distiller.item_sets["own"][1:], torch.tensor(case["student_list"]) + 1)
    torch.testing.assert_close(distiller._gamma[1:], torch.tensor(case["gamma"]), rtol=1e-5, atol=0)
    assert loss_of(distiller, [user + 1 for user in case["batch"]]) == pytest.approx(case["loss"], rel=1e-5)


# -- the paper, user by user -------------------------------------------------------------------------------------------


def naive_paper_weights(
    student: Tensor, teacher: Tensor, train: set[int], k: int
) -> tuple[list[int], list[int], dict[int, int]]:
    """Q^T, Q^S and z of one user, by the words of section 5.3; items from 0."""
    left = [i for i in range(len(student)) if i not in train]
    rank = {i: place for place, i in enumerate(sorted(left, key=lambda i: (-float(student[i]), i)))}
    wanted = sorted(left, key=lambda i: (-float(teacher[i]), i))[:k]
    own = sorted(left, key=lambda i: rank[i])[:k]
    missing = [i for i in wanted if i not in own]
    return wanted, own, {j: sum(rank[j] < rank[i] for i in missing) for j in left}


@pytest.mark.parametrize("candidates", ["all", 30])
def test_paper_mode_equals_the_paper_user_by_user(candidates: Any, log_weights: list[Tensor]) -> None:
    student, teacher = random_scores()
    train = random_train()
    distiller, scorer = made(
        student, teacher, train, faithful="paper", k=6, n_samples=5, candidates=candidates, beta=3.0
    )
    weights = torch.cat(log_weights)
    ranked = scorer.top_k(torch.arange(8), 30, train)[0]
    for user in range(7):
        wanted, own, z = naive_paper_weights(student[user], teacher[user], train_of(train, user), 6)
        assert (distiller.item_sets["teacher_list"][user + 1] - 1).tolist() == wanted
        assert (distiller.item_sets["own"][user + 1] - 1).tolist() == own
        for item, count in z.items():
            column = item + 1 if candidates == "all" else int((ranked[user + 1] == item + 1).nonzero())
            assert float(weights[user + 1, column]) == pytest.approx(count / 10)
        overlap = len(set(wanted) & set(own)) / 6
        assert float(distiller._gamma[user + 1]) == pytest.approx(math.exp(-3 * overlap), rel=1e-5)
        finite = int((weights[user + 1] > -torch.inf).sum())
        assert finite == len(z)


def naive_code_weights(
    student: Tensor, teacher: Tensor, train: set[int], k: int, candidates: int | str
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Return Q^T, Q^S, the candidates best first and their counts of one user, as the published code makes them.

    Items are counted from 0.
    """
    left = [i for i in range(len(student)) if i not in train]
    wanted, ranked = (sorted(left, key=lambda i, s=scores: (-float(s[i]), i)) for scores in (teacher, student))
    drawn_from = ranked if candidates == "all" else ranked[: int(candidates)]
    counts = [min(50, len(set(drawn_from[place:]) & set(wanted[:k]))) for place in range(len(drawn_from))]
    return wanted[:k], ranked[:k], drawn_from, counts


@pytest.mark.parametrize(
    ("n_items", "k", "candidates", "share"),
    [
        (30, 6, 12, 0.0),
        (30, 6, 12, 0.3),
        (30, 6, "all", 0.0),
        (30, 6, "all", 0.3),
        (90, 60, 80, 0.0),  # counts beyond 50
        (90, 60, "all", 0.0),
        (90, 20, 80, 0.85),  # both lists shorter than k
        (90, 20, "all", 0.85),
    ],
)
def test_code_mode_equals_the_code_user_by_user(
    n_items: int, k: int, candidates: int | str, share: float, log_weights: list[Tensor]
) -> None:
    student, teacher = random_scores(n_items=n_items)
    train = random_train(n_items=n_items, share=share) if share else None
    options = {"k": k, "n_samples": 5, "candidates": candidates, "mask_train": bool(share)}
    distiller, _ = made(student, teacher, train, **options)
    weights = torch.cat(log_weights) * 10
    for user in range(7):
        wanted, own, drawn_from, counts = naive_code_weights(
            student[user], teacher[user], train_of(train, user), k, candidates
        )
        found = weights[user + 1]
        columns = [i + 1 for i in drawn_from] if candidates == "all" else list(range(len(drawn_from)))
        assert found[columns].tolist() == pytest.approx(counts)
        assert int((found > -torch.inf).sum()) == len(counts)
        sets = {name: (ids[user + 1] - 1).tolist() for name, ids in distiller.item_sets.items()}
        assert sets["teacher_list"][: len(wanted)] == wanted and sets["own"][: len(own)] == own
        drawn = set(sets["drawn"])
        assert len(drawn) == 5 and drawn <= set(drawn_from)
        valid = distiller._valid[user + 1].tolist()
        assert valid[:k] == [place < len(own) for place in range(k)]
        counted = {i for i, ok in zip(sets["drawn"] + sets["teacher_list"], valid[k:], strict=True) if ok}
        assert counted == drawn | (set(wanted) - set(own)) and sum(valid[k:]) == len(counted)
        overlap = len(set(wanted) & drawn) / len(wanted)
        assert float(distiller._gamma[user + 1]) == pytest.approx(math.exp(-3 * overlap), rel=1e-5)


@pytest.mark.parametrize("faithful", ["code", "paper"])
def test_all_candidates_weigh_the_same_as_the_whole_ranking(faithful: str, log_weights: list[Tensor]) -> None:
    student, teacher = random_scores()
    train = random_train()
    options = {"faithful": faithful, "mask_train": True, "k": 6, "n_samples": 5}
    _, scorer = made(student, teacher, train, candidates=30, **options)
    by_place = log_weights.pop()
    made(student, teacher, train, candidates="all", **options)
    by_item = torch.cat(log_weights)
    ranked = scorer.top_k(torch.arange(8), 30, train)[0]
    for row in range(1, 8):
        places = by_place[row] > -torch.inf
        assert ranked[row][places].sort().values.tolist() == (by_item[row] > -torch.inf).nonzero().squeeze(1).tolist()
        torch.testing.assert_close(by_item[row][ranked[row][places]], by_place[row][places])


def test_overlap_is_a_share_of_what_the_teacher_lists() -> None:
    """Eq. 10 divides by |Q^T|: where a user has fewer than K items left, equal lists are still an overlap of 1."""
    _, teacher = random_scores(n_items=12)
    users, items = np.nonzero(np.ones((7, 12)) * (np.arange(12) < 9))
    train = Ragged.from_pairs(users + 1, items + 1, 8)
    distiller, _ = made(teacher, teacher, train, faithful="paper", k=6, n_samples=3, beta=2.0)
    assert distiller._gamma[1:].tolist() == pytest.approx([math.exp(-2.0)] * 7)
    assert distiller.diagnostics()["list_overlap"] == distiller.diagnostics()["overlap_mean"] == 1


def test_a_user_without_any_item_left_costs_nothing() -> None:
    users, items = np.nonzero(np.ones((7, 12)) * (np.arange(7)[:, None] == 2))
    train = Ragged.from_pairs(users + 1, items + 1, 8)
    for candidates in ("all", 12):
        distiller, scorer = made(
            *random_scores(n_items=12), train, faithful="paper", k=4, n_samples=3, candidates=candidates
        )
        assert not distiller._valid[3].any()
        loss = distiller(batch_for(distiller, [3]))
        loss.backward()
        assert float(loss.detach()) == 0 and float(scorer.table.grad.abs().sum()) == 0  # type: ignore[union-attr]


def test_paper_loss_is_a_mean_over_distinct_users() -> None:
    student, teacher = random_scores()
    distiller, scorer = made(student, teacher, faithful="paper", k=4, n_samples=4, reduction="mean")
    once, often = (loss_of(distiller, users) for users in ([1, 2, 3], [1, 1, 1, 1, 2, 3, 3]))
    assert once == pytest.approx(often, rel=1e-6)
    assert scorer.n_queries == 8


@pytest.mark.parametrize("faithful", ["code", "paper"])
def test_set_a_and_its_loss_by_hand(faithful: str) -> None:
    student, teacher = random_scores(seed=3)
    distiller, _ = made(student, teacher, faithful=faithful, k=5, n_samples=4, candidates=20, temperature=2.0)
    for user in range(1, 8):
        sets = {name: ids[user].tolist() for name, ids in distiller.item_sets.items()}
        union = sorted(set(sets["drawn"]) | (set(sets["teacher_list"]) - set(sets["own"])))
        rows = [torch.tensor(ids) - 1 for ids in (sets["own"], union)]
        l1, l2 = (float(cross_entropy(student[user - 1][i][None], teacher[user - 1][i][None], None, 2.0)) for i in rows)
        gamma = float(distiller._gamma[user])
        assert loss_of(distiller, [user]) == pytest.approx((1 - gamma) * l1 + gamma * l2, rel=1e-5)


# -- rows, gradients, determinism --------------------------------------------------------------------------------------


def test_distinct_users_with_counts_equal_row_by_row() -> None:
    student, teacher = random_scores()
    distiller, _ = made(student, teacher, k=4, n_samples=4, candidates=15)
    users = [1, 1, 1, 4, 4, 7]
    together = loss_of(distiller, users)
    assert together == pytest.approx(sum(loss_of(distiller, [u]) for u in users), rel=1e-5)
    distiller.reduction = "mean"
    assert loss_of(distiller, users) == pytest.approx(together / 6, rel=1e-5)


def test_gradient_reaches_the_student_and_only_the_users_of_the_batch() -> None:
    student, teacher = random_scores()
    distiller, scorer = made(student, teacher, k=4, n_samples=4, candidates=15)
    distiller(batch_for(distiller, [2, 5])).backward()
    touched = scorer.table.grad.abs().sum(1) > 0  # type: ignore[union-attr]
    assert touched.nonzero().squeeze(1).tolist() == [2, 5]
    assert float(scorer.table.grad[:, 0].abs().sum()) == 0  # type: ignore[index]


def test_gradient_is_the_difference_of_softmaxes() -> None:
    """d CE / d r = (softmax of the student - softmax of the teacher) / temperature on each set, weighed by gamma."""
    student, teacher = random_scores()
    distiller, scorer = made(student, teacher, k=4, n_samples=4, candidates=15, temperature=2.0)
    distiller(batch_for(distiller, [3, 3])).backward()
    expected = torch.zeros(31)
    sets, valid, gamma = {n: ids[3] for n, ids in distiller.item_sets.items()}, distiller._valid[3], distiller._gamma[3]
    rest = torch.cat([sets["drawn"], sets["teacher_list"]])[valid[4:]]
    for items, weight in ((sets["own"], 1 - gamma), (rest, gamma)):
        ours, theirs = (torch.softmax(scores[2, items - 1] / 2, 0) for scores in (student, teacher))
        expected.index_add_(0, items, 2 * weight * (ours - theirs) / 2)
    torch.testing.assert_close(scorer.table.grad[3], expected, rtol=1e-5, atol=1e-6)  # type: ignore[index]


def test_gradient_never_reaches_the_teacher() -> None:
    generator = torch.Generator().manual_seed(0)
    users, items = (torch.randn(n, 3, generator=generator, requires_grad=True) for n in (8, 31))
    scorer = TableScorer(padded(random_scores()[0]))
    for teacher in (FactorScores(users, items), DenseScores(users @ items.T)):
        distiller = RCEKD(scorer, teacher, k=4, n_samples=4, candidates=15)  # type: ignore[arg-type]
        distiller.begin_training(no_train_items(8))
        distiller.begin_epoch(0)
        distiller(batch_for(distiller, [1, 2])).backward()
        assert users.grad is None and items.grad is None
    assert not list(distiller.parameters())


def test_a_factor_store_gives_the_same_loss_as_its_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    users, items = (torch.randn(n, 3, generator=generator) for n in (8, 31))
    losses = []
    for teacher in (FactorScores(users, items), DenseScores(users @ items.T)):
        distiller = RCEKD(TableScorer(padded(random_scores()[0])), teacher, k=4, n_samples=4, candidates=15)  # type: ignore[arg-type]
        distiller.begin_training(no_train_items(8))
        distiller.begin_epoch(0)
        losses.append(loss_of(distiller, [1, 2, 2, 7]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_new_epoch_draws_anew_and_a_restored_generator_draws_the_same() -> None:
    distiller, _ = made(*random_scores(), k=4, n_samples=4, candidates=15)
    first, state = distiller.item_sets["drawn"], {k: v.clone() for k, v in distiller.sampling_state().items()}
    distiller.begin_epoch(1)
    second = distiller.item_sets["drawn"]
    distiller.restore_sampling(state)
    distiller.begin_epoch(1)
    assert not torch.equal(first, second) and torch.equal(second, distiller.item_sets["drawn"])


def test_same_seed_same_sets() -> None:
    student, teacher = random_scores()
    draws = [
        made(student, teacher, seed=seed, k=4, n_samples=4, candidates=15)[0].item_sets["drawn"] for seed in (1, 1, 2)
    ]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("faithful", ["code", "paper"])
@pytest.mark.parametrize("variant", ["rce", "wo_sep", "wo_s", "wo_t", "const", "vanilla_ce", "full_ce"])
def test_every_variant_is_finite_at_scores_of_1e4(variant: str, faithful: str) -> None:
    student, teacher = random_scores(scale=1e4)
    distiller, scorer = made(
        student, teacher, random_train(), variant=variant, faithful=faithful, k=5, n_samples=5, candidates=20
    )
    loss = distiller(batch_for(distiller, [1, 2, 2, 7]))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(scorer.table.grad).all()  # type: ignore[arg-type]


# -- variants ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["vanilla_ce", "wo_s", "wo_t", "wo_sep", "full_ce"])
def test_variants_are_one_cross_entropy_on_their_set(variant: str) -> None:
    student, teacher = random_scores()
    distiller, _ = made(student, teacher, variant=variant, k=5, n_samples=5, candidates=20)
    for user in range(7):
        wanted, own = (set(scores[user].topk(5).indices.tolist()) for scores in (teacher, student))
        items = {"vanilla_ce": wanted, "wo_s": wanted, "wo_t": own, "wo_sep": wanted | own, "full_ce": set(range(30))}[
            variant
        ]
        index = torch.tensor(sorted(items))
        expected = float(cross_entropy(student[user][index][None], teacher[user][index][None]))
        assert loss_of(distiller, [user + 1]) == pytest.approx(expected, rel=1e-5)


def test_const_uses_the_constant() -> None:
    student, teacher = random_scores()
    distiller, _ = made(student, teacher, variant="const", gamma_constant=0.3, k=5, n_samples=5, candidates=20)
    assert distiller._gamma.tolist() == pytest.approx([0.3] * 8)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("decreasing", [1, 0.75, 0, 0]), ("global", [1, 0.75, 0, 0]), ("increasing", [0, 0.25, 1, 1])],
)
def test_a_schedule_follows_the_epochs_and_stays_at_its_end(rule: str, expected: list[float]) -> None:
    distiller, _ = made(*random_scores(), gamma=rule, gamma_epochs=4, k=5, n_samples=5, candidates=20)
    found = []
    for epoch in (0, 1, 4, 9):
        distiller.begin_epoch(epoch)
        found.append(float(distiller._gamma[1]))
    assert found == pytest.approx(expected)


def test_linear_goes_by_both_of_its_names() -> None:
    gammas = [
        made(*random_scores(), gamma=rule, k=5, n_samples=5, candidates=20)[0]._gamma
        for rule in ("linear", "user_specific")
    ]
    assert torch.equal(*gammas) and gammas[0][1:].unique().numel() > 1


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("exponential", [1.0, math.exp(-1.5), math.exp(-3)]),
        ("linear", [1, 0.5, 0]),
        ("user_specific", [1, 0.5, 0]),
        ("fixed", [0.2] * 3),
        ("decreasing", [0.75] * 3),
        ("global", [0.75] * 3),
        ("increasing", [0.25] * 3),
    ],
)
def test_gamma_rules(rule: str, expected: list[float]) -> None:
    overlap = torch.tensor([0.0, 0.5, 1.0])
    gamma = gamma_weights(rule, overlap, beta=3.0, constant=0.2, epoch=25, last_epoch=100)
    assert gamma.tolist() == pytest.approx(expected)


# -- masks and edges ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("candidates", ["all", 20])
def test_training_items_never_count_when_masked(candidates: Any) -> None:
    train = random_train(share=0.5)
    distiller, _ = made(*random_scores(), train, mask_train=True, k=6, n_samples=6, candidates=candidates)
    members = torch.cat(list(distiller.item_sets.values()), dim=1)
    for user in range(1, 8):
        mine = set(train.items[train.starts[user] : train.starts[user + 1]].tolist())
        counted = set(members[user][distiller._valid[user]].tolist())
        assert counted and not counted & mine and 0 not in counted


@pytest.mark.parametrize("candidates", [None, "all", 1, 2])
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("faithful", ["code", "paper"])
def test_two_items(faithful: str, k: int, candidates: Any) -> None:
    distiller, _ = made(*random_scores(n_items=2), faithful=faithful, k=k, n_samples=1, candidates=candidates)
    assert torch.isfinite(distiller(batch_for(distiller, [1, 2])))


@pytest.mark.parametrize("candidates", ["all", 12])
def test_k_beyond_a_users_unmasked_items_uses_what_is_left(candidates: Any) -> None:
    users, items = np.nonzero(np.ones((7, 12)) * (np.arange(12) < 10))
    train = Ragged.from_pairs(users + 1, items + 1, 8)
    distiller, _ = made(*random_scores(n_items=12), train, mask_train=True, k=6, n_samples=6, candidates=candidates)
    assert int(distiller._valid[1:, :6].sum()) == 7 * 2
    assert torch.isfinite(distiller(batch_for(distiller, [1, 2, 3])))


def test_figures_of_an_epoch() -> None:
    student, teacher = random_scores()
    figures = made(student, teacher, k=5, n_samples=5, candidates=20)[0].diagnostics()
    assert {"overlap_mean", "overlap_q50", "gamma_mean", "gamma_q25", "overlap_rate", "closure_share"} <= figures.keys()
    assert all(0 <= value <= 1 for value in figures.values())
    same = made(teacher, teacher, k=5, n_samples=10, candidates=10)[0].diagnostics()
    assert same["overlap_rate"] == 1 and same["closure_share"] == 1 and same["list_overlap"] == 1


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"k": 0}, "kd_k=0"),
        ({"k": 41}, "kd_k=41"),
        ({"n_samples": 0}, "kd_n_samples=0"),
        ({"candidates": 0}, "kd_candidates=0"),
        ({"candidates": None, "code_candidates": 0}, "kd_code_candidates=0"),
        ({"candidates": "all", "n_samples": 41}, "kd_n_samples=41"),
        ({"candidates": None, "n_samples": 41}, "kd_n_samples=41"),
        ({"beta": math.inf}, "kd_beta=inf"),
        ({"beta": math.nan}, "kd_beta=nan"),
        ({"tau": math.nan}, "kd_tau=nan"),
        ({"gamma": "increasing", "gamma_epochs": 0}, "kd_gamma_epochs"),
        ({"n_samples": 30, "candidates": 20}, "kd_n_samples=30"),
        ({"candidates": 41}, "kd_candidates=41"),
        ({"beta": -1.0}, "kd_beta=-1.0"),
        ({"tau": 0.0}, "kd_tau=0.0"),
        ({"temperature": -2.0}, "kd_temperature=-2.0"),
        ({"gamma": "decreasing"}, "kd_gamma_epochs"),
        ({"gamma_constant": 1.5}, "kd_gamma_constant=1.5"),
    ],
)
def test_options_out_of_range_name_their_key(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_options(RCEKD, {"k": 5, "n_samples": 5, "candidates": 20, **given}, 30, 40)


@pytest.mark.parametrize(
    "given", [{"k": "abc"}, {"k": 2.5}, {"beta": [1]}, {"faithful": "both"}, {"candidates": "some"}, {"mask_train": 1}]
)
def test_options_of_a_wrong_type_name_their_key(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"kd_{next(iter(given))}="):
        resolve_options(RCEKD, given)


def test_defaults_are_accepted_and_an_int_passes_for_a_float() -> None:
    options = resolve_options(RCEKD, {"beta": 5})
    RCEKD.check(943, 1682, options)
    assert options["beta"] == 5.0 and isinstance(options["beta"], float)
    assert set(options) == set(distiller_options(RCEKD))


@pytest.mark.parametrize(
    "name", ["RCKD", "no.such.module:Thing", "math:pi", "math:nothing", ":RCEKD", ".rcekd:RCEKD", "math:"]
)
def test_unknown_methods(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        distiller_class(name)


class Outside(Distiller):
    """A method from elsewhere, with arguments of every kind; one has no annotation."""

    def __init__(
        self,
        student: Any,
        teacher: Any,
        *,
        width: int,
        layers: list[int],
        anything: Any = (1,),
        bare=3,
        seed: int = 0,
        **more: float,
    ) -> None:
        super().__init__(student, teacher, seed=seed)

    def forward(self, batch: DistillBatch) -> Tensor:
        raise NotImplementedError


def test_arguments_of_an_outside_method() -> None:
    assert set(distiller_options(Outside)) == {"width", "layers", "anything", "bare"}
    options = resolve_options(Outside, {"width": 4, "layers": [8, 8], "bare": "any"})
    assert options == {"width": 4, "layers": [8, 8], "anything": (1,), "bare": "any"}
    with pytest.raises(ConfigError, match="Outside needs kd_width"):
        resolve_options(Outside, {"layers": [8]})
    with pytest.raises(ConfigError, match="--kd_layers=8: expected a list of integers"):
        resolve_options(Outside, {"width": 4, "layers": 8})


def test_a_class_is_found_by_its_name() -> None:
    assert distiller_class("RCEKD") is distiller_class("recbole_kd.distiller.rcekd:RCEKD") is RCEKD


@pytest.mark.parametrize(
    "options",
    [{}, {"faithful": "paper", "candidates": 20}, {"faithful": "paper"}, {"variant": "wo_sep"}, {"variant": "wo_t"}],
)
def test_sets_drawn_in_blocks_of_queries_are_the_same(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = random_scores(23, 60, seed=3)
    given = {"k": 5, "n_samples": 6, **({"candidates": 15} if not options.get("faithful") else {}), **options}
    whole, _ = made(student, teacher, random_train(23, 60), **given)
    monkeypatch.setattr(module, "QUERIES_PER_DRAW", 7)
    blockwise, _ = made(student, teacher, random_train(23, 60), **given)
    assert list(whole.item_sets) == list(blockwise.item_sets) and whole.diagnostics() == blockwise.diagnostics()
    for name, ids in whole.item_sets.items():
        assert torch.equal(ids, blockwise.item_sets[name])
    assert loss_of(whole, [1, 4, 4, 23]) == loss_of(blockwise, [1, 4, 4, 23])


@pytest.mark.skipif(compiled_ops.kernels() is None, reason="numba is not installed")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("faithful", ["code", "paper"])
@pytest.mark.parametrize(("n_items", "width"), [(60, 15), (60, 6), (9, 9)])
def test_one_pass_draws_what_plain_torch_draws(
    faithful: str, masked: bool, n_items: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same items, in the order of the ranking; users of the small catalogue may have too few items left."""
    student, teacher = random_scores(23, n_items, seed=3)
    options = {"k": 5, "n_samples": 6, "candidates": width, "faithful": faithful, "mask_train": masked}
    train = random_train(23, n_items, 0.5)
    monkeypatch.setattr(compiled_lists, "SET_NUMBERS_FROM", 0)
    fast, _ = made(student, teacher, train, **options)
    monkeypatch.setattr(compiled_lists, "draw_sets", lambda *_, **__: None)
    plain, _ = made(student, teacher, train, **options)
    assert torch.equal(fast._gamma, plain._gamma) and fast.diagnostics() == plain.diagnostics()
    own, drawn = slice(0, 5), slice(5, 11)
    assert torch.equal(fast._valid[:, own], plain._valid[:, own])
    assert torch.equal(fast._valid[:, 11:], plain._valid[:, 11:]) and torch.equal(
        fast.item_sets["own"], plain.item_sets["own"]
    )
    of_draws = [torch.where(of._valid[:, drawn], of._chosen[:, drawn], 0).sort(1).values for of in (fast, plain)]
    assert torch.equal(*of_draws)
    assert loss_of(fast, [1, 4, 4, 23]) == pytest.approx(loss_of(plain, [1, 4, 4, 23]), rel=1e-5)
