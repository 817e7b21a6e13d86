"""The Scorer's contract, over models of every kind."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.model.general_recommender import BPR, LightGCN
from recbole.trainer import Trainer
from torch import Tensor, nn

from recbole_kd.acceleration.lightgcn_propagation import accelerate
from recbole_kd.data.train_items import train_items
from recbole_kd.errors import ConfigError
from recbole_kd.ops import topk
from recbole_kd.ops.ragged import Ragged
from recbole_kd.scoring.scorer import Scorer
from tests.support.helpers import Case, TinyData, build_case

DOT_PRODUCTS = ("BPR", "MF", "LightGCN", "NGCF", "SGL")
OTHERS = ("NeuMF", "MultiVAE", "DMF", "EASE", "ItemKNN")
FITTED = ("EASE", "ItemKNN")
MODELS = DOT_PRODUCTS + OTHERS
TRAINED = tuple(name for name in MODELS if name not in FITTED)


class ShiftedBPR(BPR):
    """A subclass whose score is no longer its parent's dot product."""

    def predict(self, interaction: Any) -> Tensor:
        return super().predict(interaction) + 1.0

    def full_sort_predict(self, interaction: Any) -> Tensor:
        return super().full_sort_predict(interaction) + 1.0


class DoubledBPR(BPR):
    """A subclass that changes a look-up only."""

    def get_user_embedding(self, user: Tensor) -> Tensor:
        return 2 * super().get_user_embedding(user)


class RenamedLightGCN(LightGCN):
    """Not served by its parent's line: scored through full_sort_predict and its cache."""

    def full_sort_predict(self, interaction: Any) -> Tensor:
        return super().full_sort_predict(interaction)


def case_of(data: TinyData, name: str, **given: Any) -> Case:
    case = build_case(data, name, **given)
    for parameter in case.model.parameters():  # MF starts near zero: make scores that differ clearly
        if parameter.dim() > 1 and name in DOT_PRODUCTS:
            nn.init.normal_(parameter, std=0.5)
    return case


def of_class(data: TinyData, kind: type, base: str) -> Case:
    case = build_case(data, base)
    model = kind(case.config, case.splits.parts[0])
    model.load_state_dict(case.model.state_dict())
    case.model = model
    return case


def own_scores(model: Any) -> Tensor:
    """Scores of all users at all items, by the model's own predict, in evaluation mode."""
    twin = copy.deepcopy(model)
    for module in twin.modules():
        module.training = False
    users = torch.arange(model.n_users)
    rows = Interaction({
        model.USER_ID: users.repeat_interleave(model.n_items),
        model.ITEM_ID: torch.arange(model.n_items).repeat(model.n_users),
    })  # fmt: skip
    with torch.no_grad():
        return torch.as_tensor(twin.predict(rows), dtype=torch.float32).view(model.n_users, model.n_items)


def batch_of(case: Case) -> Interaction:
    torch.manual_seed(0)
    np.random.seed(0)
    return next(iter(case.loaders.train))


def chosen_items(case: Case, n_queries: int = 6, k: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    queries = torch.arange(1, n_queries + 1)
    return queries, torch.randint(1, case.model.n_items, (n_queries, k), generator=generator)


def count_calls(target: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []
    plain = getattr(target, name)

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return plain(*args, **kwargs)

    monkeypatch.setattr(target, name, counted)
    return calls


def naive_top_k(scores: Tensor, k: int, exclude: Ragged | None) -> list[list[int]]:
    result = []
    for query, row in enumerate(scores.tolist()):
        seen = (
            set() if exclude is None else set(exclude.items[exclude.starts[query] : exclude.starts[query + 1]].tolist())
        )
        ranked = sorted((-score, item) for item, score in enumerate(row) if item and item not in seen)
        listed = [item for _, item in ranked[:k]]
        result.append(listed + [0] * (k - len(listed)))
    return result


# -- scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_full_and_at_are_the_models_own_scores(tiny_dataset: TinyData, name: str) -> None:
    case = case_of(tiny_dataset, name)
    expected, scorer = own_scores(case.model), Scorer(case.model)
    queries = torch.arange(scorer.n_queries)
    items = torch.randint(0, scorer.n_items, (scorer.n_queries, 7))
    with scorer.frozen():
        full, at = scorer.full(queries), scorer.at(queries, items)
    torch.testing.assert_close(full, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(at, expected.gather(1, items), rtol=1e-5, atol=1e-6)
    assert full.dtype == at.dtype == torch.float32


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("k", [5, 60])
def test_top_k_is_a_naive_sort(tiny_dataset: TinyData, name: str, k: int) -> None:
    case = case_of(tiny_dataset, name)
    scorer, exclude = Scorer(case.model), train_items(case.loaders.train)
    queries = torch.arange(scorer.n_queries)
    with scorer.frozen():
        scores = scorer.full(queries)
    for unranked in (None, exclude):
        ids, values = scorer.top_k(queries, k, unranked)
        assert ids.tolist() == naive_top_k(scores, k, unranked)
        listed = ids > 0
        assert torch.equal(values[listed], scores.gather(1, ids)[listed])
        assert bool((values[~listed] == -torch.inf).all())


@pytest.mark.parametrize("name", MODELS)
def test_flags_and_caches_are_as_before(tiny_dataset: TinyData, name: str) -> None:
    case = case_of(tiny_dataset, name)
    scorer = Scorer(case.model)
    case.model.train()
    first = next(iter(case.model.modules()))
    inner = [m for m in case.model.modules() if m is not first]
    if inner:
        inner[0].training = False
    flags = [m.training for m in case.model.modules()]
    scorer.top_k(torch.arange(scorer.n_queries), 5)
    assert [m.training for m in case.model.modules()] == flags
    with pytest.raises(ZeroDivisionError), scorer.frozen():
        raise ZeroDivisionError
    assert [m.training for m in case.model.modules()] == flags
    assert all(
        getattr(case.model, cache, None) is None for cache in ("restore_user_e", "restore_item_e", "i_embedding")
    )


@pytest.mark.parametrize("name", TRAINED)
def test_evaluation_is_not_stale_after_a_step(tiny_dataset: TinyData, name: str) -> None:
    case = case_of(tiny_dataset, name)
    trainer, scorer, batch = Trainer(case.config, case.model), Scorer(case.model), batch_of(case)
    queries, items = chosen_items(case)
    trainer.evaluate(case.loaders.valid, load_best_model=False)
    case.model.train()
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.5)
    with scorer.step():
        loss = case.model.calculate_loss(batch) + scorer.at(queries, items).square().sum()
    loss.backward()
    optimizer.step()
    case.model.eval()
    with torch.no_grad():
        try:
            now = case.model.full_sort_predict(Interaction({case.model.USER_ID: queries})).view(len(queries), -1)
        except NotImplementedError:
            return
    torch.testing.assert_close(now, own_scores(case.model)[queries], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TRAINED)
def test_the_gradient_of_at_reaches_parameters(tiny_dataset: TinyData, name: str) -> None:
    case = case_of(tiny_dataset, name)
    Trainer(case.config, case.model).evaluate(
        case.loaders.valid, load_best_model=False
    )  # leaves constant tables in some models
    queries, items = chosen_items(case)
    case.model.zero_grad()
    Scorer(case.model).at(queries, items).sum().backward()
    assert any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in case.model.parameters())


def test_at_after_an_evaluation_is_fresh_for_a_model_with_a_cache(tiny_dataset: TinyData) -> None:
    case = of_class(tiny_dataset, RenamedLightGCN, "LightGCN")
    scorer = Scorer(case.model)
    queries, items = chosen_items(case)
    case.model.full_sort_predict(Interaction({case.model.USER_ID: queries}))
    with torch.no_grad():
        case.model.user_embedding.weight.mul_(3.0)
    torch.testing.assert_close(scorer.at(queries, items).detach(), own_scores(case.model)[queries].gather(1, items))


# -- which models have vectors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_only_dot_products_have_vectors(tiny_dataset: TinyData, name: str) -> None:
    scorer = Scorer(build_case(tiny_dataset, name).model)
    assert scorer.has_vectors == (name in DOT_PRODUCTS)
    if not scorer.has_vectors:
        with pytest.raises(ConfigError, match=name):
            scorer.tables()


@pytest.mark.parametrize("kind", [ShiftedBPR, DoubledBPR])
def test_a_subclass_with_its_own_scores_falls_back(tiny_dataset: TinyData, kind: type) -> None:
    case = of_class(tiny_dataset, kind, "BPR")
    scorer = Scorer(case.model)
    assert not scorer.has_vectors
    queries, items = chosen_items(case)
    torch.testing.assert_close(scorer.at(queries, items).detach(), own_scores(case.model)[queries].gather(1, items))


def test_a_sequential_model_is_refused() -> None:
    class SASRec(nn.Module):
        pass

    with pytest.raises(ConfigError, match="SASRec is not a general or sequential recommender"):
        Scorer(SASRec())


# -- one encoding per step --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fast", [False, True])
def test_lightgcn_propagates_once_per_step(tiny_dataset: TinyData, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(tiny_dataset, "LightGCN")
    if fast:
        accelerate(case.model)
    queries, items = chosen_items(case)
    batch, scorer = batch_of(case), Scorer(case.model)

    case.model.zero_grad()
    loss = case.model.calculate_loss(batch) + scorer.at(queries, items).square().sum()
    loss.backward()
    expected = [p.grad.clone() for p in case.model.parameters()]

    own, bound = case.model.__dict__.get("forward"), case.model.forward
    calls = count_calls(case.model, "get_ego_embeddings", monkeypatch)
    case.model.zero_grad()
    with scorer.step():
        shared = case.model.calculate_loss(batch) + scorer.at(queries, items).square().sum()
        scorer.at(queries, items)
    shared.backward()
    assert len(calls) == 1
    torch.testing.assert_close(shared, loss)
    for parameter, grad in zip(case.model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-5, atol=1e-6)

    assert case.model.__dict__.get("forward") is own
    assert case.model.forward == bound
    scorer.at(queries, items)
    assert len(calls) == 2, "the encoding of a step does not outlive it"


def test_ngcf_shares_its_dropout_mask(tiny_dataset: TinyData) -> None:
    case = case_of(tiny_dataset, "NGCF", node_dropout=0.3, message_dropout=0.5)
    scorer = Scorer(case.model)
    case.model.train()
    with scorer.step():
        of_base, again, tables = case.model.forward(), case.model.forward(), scorer.tables()
    assert of_base[0] is tables[0]
    assert not torch.equal(of_base[0], again[0])  # a loss that encodes twice has two masks, as in RecBole
    with scorer.step():
        other = case.model.forward()
    assert not torch.equal(of_base[0], other[0])


def test_the_model_is_restored_after_an_error_in_a_step(tiny_dataset: TinyData) -> None:
    case = case_of(tiny_dataset, "NGCF")
    scorer = Scorer(case.model)
    with pytest.raises(ZeroDivisionError), scorer.step():
        raise ZeroDivisionError
    assert "forward" not in case.model.__dict__
    assert scorer.tables()[0] is not scorer.tables()[0]


@pytest.mark.parametrize("name", ["LightGCN", "NGCF"])
def test_a_ranking_inside_a_step_leaves_the_step_alone(tiny_dataset: TinyData, name: str) -> None:
    case = case_of(tiny_dataset, name, **({"node_dropout": 0.3, "message_dropout": 0.5} if name == "NGCF" else {}))
    scorer, queries = Scorer(case.model), torch.arange(1, 6)
    case.model.train()
    expected = scorer.top_k(queries, 5)
    with scorer.step():
        ranked = scorer.top_k(queries, 5)
        tables = scorer.tables()
        assert tables[0].requires_grad
        again = scorer.top_k(queries, 5)
        assert scorer.tables()[0] is tables[0]
    for ids, scores in (ranked, again):
        assert torch.equal(ids, expected[0])
        torch.testing.assert_close(scores, expected[1])


def test_sgl_keeps_its_graphs(tiny_dataset: TinyData, monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(tiny_dataset, "SGL")
    case.model.train()
    calls = count_calls(case.model, "graph_construction", monkeypatch)
    scorer, batch = Scorer(case.model), batch_of(case)
    scorer.top_k(torch.arange(scorer.n_queries), 5)
    queries, items = chosen_items(case)
    forward = count_calls(type(case.model), "forward", monkeypatch)
    with scorer.step():
        case.model.calculate_loss(batch)
        scorer.at(queries, items)
    assert calls == []
    assert len(forward) == 3, "the training graph once, and its two views"


def test_no_users_by_items_matrix(tiny_dataset: TinyData, monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(tiny_dataset, "BPR")
    scorer = Scorer(case.model)
    queries = torch.arange(scorer.n_queries)
    expected = scorer.top_k(queries, 5)
    monkeypatch.setattr(topk, "BLOCK_BYTES", 3 * 4 * scorer.n_items)
    rows: list[int] = []
    plain = torch.mm
    monkeypatch.setattr(torch, "mm", lambda *args, **options: rows.append(len(args[0])) or plain(*args, **options))
    found = scorer.top_k(queries, 5)
    assert max(rows) == 3 and len(rows) == -(-scorer.n_queries // 3)
    assert torch.equal(found[0], expected[0])
