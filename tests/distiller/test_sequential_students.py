"""Sequential students of every kind under the methods that read the whole catalogue: one encoding a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from recbole.utils import init_seed

from recbole_kd.losses.cross_entropy import cross_entropy
from recbole_kd.teacher.stores.dense import DenseScores
from recbole_kd.training.build_distiller import build_distiller
from recbole_kd.training.teacher_loader import TeacherAwareLoader
from recbole_kd.training.trainer import KDTrainer
from tests.support.helpers import Case, TinyData, build_case, scorer_of

STUDENTS = ("BERT4Rec", "CORE", "DIN", "FPMC", "GCSAN", "HGN", "SASRec", "SHAN", "TransRec")
QUICK = {"MAX_ITEM_LIST_LENGTH": 6, "train_batch_size": 16}


def teacher_of(case: Case) -> DenseScores:
    scorer = scorer_of(case)
    scores = torch.randn(scorer.n_queries, scorer.n_items, generator=torch.Generator().manual_seed(3))
    return DenseScores(scores, {"model": "MF"})


def trained(case: Case, kd: str) -> tuple[list[float], list[torch.Tensor]]:
    """The KD losses of two steps of an epoch, and the parameters after them."""
    loaders, teacher = case.loaders, teacher_of(case)
    teacher.earlier = lambda: [teacher]
    values: dict[str, Any] = {**case.config.final_config_dict, "kd": kd, "kd_weight": 1.0}
    if kd == "HetComp":
        values |= {"kd_k": 4, "kd_n_positives": 1}
    distiller = build_distiller(values, case.model, teacher, loaders.train)
    trainer = KDTrainer(case.config, case.model, distiller)
    trainer.prepare(loaders.train)
    losses = list(trainer._train_epoch(loaders.train, 0))
    return losses, [parameter.detach().clone() for parameter in case.model.parameters()]


@pytest.mark.parametrize("kd", ["FullCE", "HetComp"])
@pytest.mark.parametrize("name", STUDENTS)
def test_an_epoch_of_the_methods_that_checkpoint(tiny_dataset: TinyData, name: str, kd: str) -> None:
    case = build_case(tiny_dataset, name, **QUICK)
    before = [parameter.detach().clone() for parameter in case.model.parameters()]
    losses, after = trained(case, kd)
    assert all(loss > 0 and loss < float("inf") for loss in losses)
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("name", STUDENTS)
def test_full_ce_is_that_of_the_steps_own_encoding(tiny_dataset: TinyData, name: str) -> None:
    """With dropout: base loss and KD loss share a mask, and the gradient is that of the same scores."""
    case = build_case(tiny_dataset, name, **QUICK)
    teacher = teacher_of(case)
    config: dict[str, Any] = {**case.config.final_config_dict, "kd": "FullCE", "kd_weight": 1.0}
    distiller = build_distiller(config, case.model, teacher, case.loaders.train)
    loader = TeacherAwareLoader(case.loaders.train, distiller, teacher)
    interaction = next(iter(loader))
    found = []
    for own in (False, True):
        init_seed(7, True)
        case.model.train().zero_grad()
        with distiller.student_scorer.step(interaction):
            base = case.model.calculate_loss(interaction)
            batch = interaction.kd
            if own:
                kd = distiller(batch)
            else:
                scores = distiller.student_scorer.full(batch.queries)[:, 1:]
                asked = distiller.teacher_scores.full(batch.queries)[:, 1:]
                kd = distiller.reduce(cross_entropy(scores, asked, None, distiller.temperature), batch.weights)
        (base + kd).backward()
        found.append((kd.detach(), [p.grad.clone() for p in case.model.parameters() if p.grad is not None]))
    torch.testing.assert_close(found[0][0], found[1][0])
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
