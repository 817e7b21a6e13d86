"""The logits of a base loss over the whole catalogue are the score rows of the methods that need them.

They are made once, to the same result.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from recbole.model.sequential_recommender import SASRec
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_kd.acceleration.fused_softmax import fuse_softmax
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.scoring.vector_models import softmax_of
from recbole_kd.teacher.stores.factors import FactorScores
from recbole_kd.training.build_distiller import build_distiller
from recbole_kd.training.trainer import KDTrainer
from tests.support.helpers import Case, TinyData, build_case, dataset_of

STUDENTS = ("SASRec", "GRU4Rec", "NARM", "STAMP", "LightSANs", "NextItNet", "Caser")
METHODS: dict[str, dict[str, Any]] = {
    "FullCE": {"kd_temperature": 2.0},
    "RCEKD": {"kd_variant": "full_ce", "kd_k": 4, "kd_n_samples": 4, "kd_candidates": 10},
    "HetComp": {"kd_k": 10, "kd_n_positives": 2},
}
WIDTH = 8
TEACHERS_WIDTH = 6


class SharpSASRec(SASRec):
    """Its softmax sees other numbers than its scores."""

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        vectors = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        loss: torch.Tensor = self.loss_fct(5 * vectors @ self.item_embedding.weight.T, interaction[self.POS_ITEM_ID])
        return loss


class Products(TorchDispatchMode):
    """Counts matrix products over the catalogue in which the student's vectors take part."""

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.n_items, self.count = n_items, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_, torch.ops.aten.bmm):
            shapes = {size for arg in args if torch.is_tensor(arg) for size in arg.shape}
            self.count += bool(shapes & {self.n_items, self.n_items - 1}) and TEACHERS_WIDTH not in shapes
        return func(*args, **(kwargs or {}))


def a_teacher(case: Case) -> FactorScores:
    generator = torch.Generator().manual_seed(2)
    n_users, n_items = case.splits.n_users + 1, case.splits.n_items + 1
    users, items = (2 * torch.randn(n, TEACHERS_WIDTH, generator=generator) for n in (n_users, n_items))
    teacher = FactorScores(users, items, {"model": "MF"})
    teacher.earlier = lambda: [FactorScores(users * shrunk, items, {"model": "MF"}) for shrunk in (0.1, 0.5)]
    return teacher


def a_step(data: TinyData, model: str, kd: str, **options: Any) -> tuple[KDTrainer, Any, int]:
    """A trainer, a batch, and the size of the catalogue."""
    case = build_case(data, model, embedding_size=WIDTH)
    softmax = softmax_of(case.model)
    if softmax is not None:
        fuse_softmax(softmax)
    torch.nn.init.normal_(case.model.item_embedding.weight)
    values = {"kd": kd, "seed": 0, "dataset": "tiny", "model": model, **options}
    distiller = build_distiller(values, case.model, a_teacher(case), case.loaders.train)
    trainer = KDTrainer(case.config, case.model, distiller)
    trainer.prepare(case.loaders.train)
    assert trainer._loader is not None
    distiller.begin_epoch(0)
    trainer._loader.ask_teacher()
    batch = next(iter(trainer._loader))
    assert len({len(batch), WIDTH, TEACHERS_WIDTH, case.model.n_items}) == 4, "a product is known by its shapes"
    case.model.train()
    return trainer, batch, case.model.n_items


def losses_and_gradients(trainer: KDTrainer, batch: Any) -> list[torch.Tensor]:
    torch.manual_seed(3)
    trainer.model.zero_grad()
    base, kd = trainer._losses(batch)
    (base + 0.7 * kd).backward()
    return [base.detach(), kd.detach(), *(p.grad.clone() for p in trainer.model.parameters() if p.grad is not None)]


@pytest.mark.parametrize(("kd", "fine"), [*((kd, False) for kd in METHODS), ("HetComp", True)])
@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec"])
def test_losses_and_gradients_are_the_same(
    model: str, kd: str, fine: bool, tiny_dataset: TinyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, batch, _ = a_step(tiny_dataset, model, kd, **METHODS[kd])
    if fine:
        trainer.distiller._fine = True  # type: ignore[union-attr]
    reused = losses_and_gradients(trainer, batch)
    monkeypatch.setattr(Scorer, "known_rows", lambda *_: None)
    del trainer.model.loss_fct.forward  # back to torch's
    computed = losses_and_gradients(trainer, batch)
    assert len(reused) == len(computed) > 5 and float(reused[1]) > 0.05
    for one, other in zip(reused, computed, strict=True):
        # by norm: single elements of a gradient are sums that cancel, whose float32 rounding differs between processors
        assert float((one - other).norm()) <= 1e-6 * max(float(other.norm()), 1e-2)


@pytest.mark.parametrize("kd", METHODS)
@pytest.mark.parametrize("model", STUDENTS)
def test_a_step_multiplies_with_the_catalogue_three_times(
    model: str, kd: str, tiny_dataset: TinyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores, and the gradients of vectors and items: as the base loss does without a distiller."""
    trainer, batch, n_items = a_step(tiny_dataset, model, kd, **METHODS[kd])
    with Products(n_items) as products:
        losses_and_gradients(trainer, batch)
    assert products.count == 3
    monkeypatch.setattr(Scorer, "known_rows", lambda *_: None)
    with Products(n_items) as products:
        losses_and_gradients(trainer, batch)
    assert products.count >= 6


def test_full_rows_have_the_dropout_of_the_base_loss(tiny_dataset: TinyData) -> None:
    trainer, batch, _ = a_step(tiny_dataset, "SASRec", "FullCE")
    assert trainer.distiller is not None
    scorer, queries = trainer.distiller.student_scorer, batch.kd.queries
    with scorer.step(batch):
        assert scorer.known_rows(queries) is None, "before the base loss"
        trainer.model.calculate_loss(batch)
        known = scorer.known_rows(queries)
        assert known is not None and scorer.known_rows(torch.tensor([0])) is None
        torch.testing.assert_close(scorer.full(queries), known[0][known[1]])
        torch.testing.assert_close(scorer.full(queries), scorer.query_vectors(queries) @ scorer.item_table().T)
        with scorer.frozen():
            assert scorer.known_rows(queries) is None
    assert scorer.known_rows(queries) is None and not trainer.model.loss_fct._forward_pre_hooks


def test_whose_softmax_sees_something_else_keeps_its_products(tiny_dataset: TinyData) -> None:
    case = build_case(tiny_dataset, "SASRec")
    assert softmax_of(case.model) is case.model.loss_fct
    sharp = SharpSASRec(case.config, dataset_of(case.loaders.train))
    pairwise = build_case(
        tiny_dataset, "SASRec", loss_type="BPR", train_neg_sample_args={"distribution": "uniform", "sample_num": 1}
    )
    for model in (sharp, pairwise.model, build_case(tiny_dataset, "HSTU").model, build_case(tiny_dataset, "MF").model):
        assert softmax_of(model) is None
    scorer = Scorer(sharp, dataset_of(case.loaders.train).training_rows())
    batch = next(iter(case.loaders.train))
    with scorer.step(batch):
        sharp.calculate_loss(batch)
        assert scorer.known_rows(batch["kd_query"]) is None


def test_rows_in_half_precision_are_not_taken(tiny_dataset: TinyData) -> None:
    case = build_case(tiny_dataset, "SASRec")
    scorer = Scorer(case.model, dataset_of(case.loaders.train).training_rows())
    batch = next(iter(case.loaders.train))
    with scorer.step(batch), torch.autocast("cpu", dtype=torch.bfloat16):
        case.model.calculate_loss(batch)
        assert scorer.known_rows(batch["kd_query"]) is None
