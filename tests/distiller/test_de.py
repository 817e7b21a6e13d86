"""DE: equal to the published class; its experts, however they are evaluated; its schedule."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from recbole_kd.distiller import expert_networks as module
from recbole_kd.distiller import experts_on_cpu
from recbole_kd.distiller.de import DE
from recbole_kd.distiller.expert_networks import ExpertMixture
from recbole_kd.distiller.registry import check_options
from recbole_kd.errors import ConfigError
from tests.support.embedding_stubs import (
    assert_equals_published,
    batch_of_rows,
    give_noise,
    load_networks,
    random_pair,
    reference,
    vector_pair,
)


@pytest.mark.parametrize("case", reference("de"), ids=["start", "epoch-100", "epoch-400", "extreme"])
def test_de_equals_the_published_class(case: dict[str, Any]) -> None:
    student, teacher = vector_pair(case)
    distiller = DE(student, teacher, n_experts=len(case["user"]["w1"]))  # type: ignore[arg-type]
    load_networks(distiller.user_experts, case["user"])
    load_networks(distiller.item_experts, case["item"])
    give_noise(distiller, case)
    distiller.begin_epoch(case["epoch"])
    assert_equals_published(distiller, student, case)


def naive(experts: ExpertMixture, vectors: Tensor, selection: Tensor) -> Tensor:
    each = [
        torch.relu(vectors @ experts.weight_1[e] + experts.bias_1[e]) @ experts.weight_2[e] + experts.bias_2[e]
        for e in range(experts.n_experts)
    ]
    return torch.einsum("ne,end->nd", selection, torch.stack(each))


@pytest.mark.parametrize("kind", ["soft", "some", "sharp", "one-hot", "elsewhere"])
def test_experts_and_gradients_equal_one_network_after_the_other(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "rows_at_a_time", lambda *_: 7)  # several blocks, the last one short
    monkeypatch.setattr(experts_on_cpu, "ROWS", 7)
    generator = torch.Generator().manual_seed(1)
    experts = ExpertMixture(4, 5, 9, generator).double()
    vectors = torch.randn(40, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(40, 4, generator=generator, dtype=torch.float64)
    sharpness = {"some": 0.08, "sharp": 0.03, "one-hot": 1e-9}.get(kind, 1)
    selection = (logits / sharpness).softmax(1).requires_grad_()
    chosen = selection > module.NEGLIGIBLE
    share = {"some": (0.5, 0.9), "sharp": (0.3, 0.6), "one-hot": (0.25, 0.25)}.get(kind, (1, 1))
    assert share[0] <= float(chosen.double().mean()) <= share[1]
    direction = torch.randn(40, 9, generator=generator, dtype=torch.float64)
    parameters = [experts.weight_1, experts.bias_1, experts.weight_2, experts.bias_2]
    forward = experts._all if kind == "elsewhere" else experts
    found, expected = forward(vectors, selection), naive(experts, vectors, selection)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    gradients = (
        torch.autograd.grad((out * direction).sum(), [selection, vectors, *parameters]) for out in (found, expected)
    )
    (own_choice, *own), (other_choice, *other) = gradients
    # negligible experts pass nothing on to the choice
    torch.testing.assert_close(own_choice, other_choice * chosen, rtol=1e-5, atol=1e-5)
    for one, another in zip(own, other, strict=True):
        torch.testing.assert_close(one, another, rtol=1e-5, atol=1e-5)


def test_no_entity_brings_nothing() -> None:
    """A batch of users alone, as ENMF's, has no items."""
    experts = ExpertMixture(4, 5, 9, torch.Generator().manual_seed(1))
    vectors = torch.empty(0, 5, requires_grad=True)
    found = experts(vectors, torch.empty(0, 4, requires_grad=True))
    parameters = [experts.weight_1, experts.bias_1, experts.weight_2, experts.bias_2]
    gradients = torch.autograd.grad(found.sum(), [vectors, *parameters])
    assert found.shape == (0, 9) and gradients[0].shape == (0, 5)
    assert not any(gradient.any() for gradient in gradients)


def test_temperature_falls_geometrically_and_stops() -> None:
    distiller = DE(*random_pair(), n_experts=2, max_epoch=50)  # type: ignore[arg-type]
    seen = []
    for epoch in (0, 25, 50, 80):
        distiller.begin_epoch(epoch)
        seen.append(distiller.diagnostics()["expert_temperature"])
    assert seen == pytest.approx([1.0, 1e-5, 1e-10, 1e-10])


def test_a_single_expert_needs_no_choice() -> None:
    student, teacher = random_pair()
    distiller = DE(student, teacher, n_experts=1)  # type: ignore[arg-type]
    before = distiller.generator.get_state()
    loss = distiller(batch_of_rows([1, 2], [3, 4], [5, 6]))
    loss.backward()
    assert torch.equal(before, distiller.generator.get_state())
    assert distiller.user_experts.choice_weight.grad is None and distiller.user_experts.weight_1.grad is not None


def test_an_item_that_is_positive_and_negative_counts_whole() -> None:
    student, teacher = random_pair()
    distiller = DE(student, teacher, n_experts=1)  # type: ignore[arg-type]
    distiller.reduction = "sum"
    item = float(distiller.reconstruction_error("items", torch.tensor([4])).detach())
    user = float(distiller.reconstruction_error("users", torch.tensor([2])).detach())
    assert float(distiller(batch_of_rows([2, 2], [4, 4], [4, 4])).detach()) == pytest.approx(user + item)
    assert float(distiller(batch_of_rows([2], [4], torch.empty(0, dtype=torch.int64))).detach()) == pytest.approx(
        user + item / 2
    )


def test_gradient_reaches_the_choice_of_experts() -> None:
    distiller = DE(*random_pair(), n_experts=3)  # type: ignore[arg-type]
    distiller(batch_of_rows([1, 2, 3], [1, 2, 3], [4, 5, 6])).backward()
    for side in (distiller.user_experts, distiller.item_experts):
        assert all(p.grad is not None and bool(p.grad.any()) for p in side.parameters())


@pytest.mark.parametrize(
    ("key", "value"),
    [("n_experts", 0), ("end_temperature", 0.0), ("end_temperature", float("inf")), ("anneal", 0.5), ("max_epoch", 0)],
)
def test_options_out_of_range_are_refused_by_name(key: str, value: float) -> None:
    options = {"n_experts": 5, "end_temperature": 1e-10, "anneal": 1e10, "max_epoch": 1000, key: value}
    with pytest.raises(ConfigError, match=f"kd_{key}={value}"):
        check_options(DE, options, 10, 10)
