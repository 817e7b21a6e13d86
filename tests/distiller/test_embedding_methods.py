"""Rules that every method on embeddings keeps.

They are refusals, reductions, extremes, randomness of its own, and training in a real loop.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import recbole_kd
from recbole_kd.config.parsing import read_config_file
from recbole_kd.config.property_layers import properties_dir
from recbole_kd.distiller.base import DistillBatch
from recbole_kd.distiller.embedding_base import EmbeddingDistiller
from recbole_kd.distiller.registry import check_options, distiller_class, distiller_options
from recbole_kd.errors import ConfigError, TeacherError
from recbole_kd.ops.ragged import Ragged
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.teacher.stores.dense import DenseScores
from recbole_kd.teacher.stores.factors import FactorScores
from recbole_kd.training.build_distiller import check_distiller
from recbole_kd.training.teacher_loader import TeacherAwareLoader
from tests.support.embedding_stubs import random_pair
from tests.support.helpers import TinyData, build_case

METHODS: dict[str, dict[str, Any]] = {
    "DE": {"n_experts": 2},
    "DERRD": {"n_experts": 2, "k": 2, "n_samples": 2, "candidates": 2},
    "FTD": {},
    "FreqD": {"n_experts": 2, "n_neighbours": 2},
    "HTD": {"n_groups": 2},
    "PCKD": {"n_experts": 2, "n_samples": 2},
}
each_method = pytest.mark.parametrize("name", METHODS)


def made(name: str, student: Any, teacher: Any, *, seed: int = 0, **options: Any) -> EmbeddingDistiller:
    cls = distiller_class(name)
    resolved = check_options(cls, {**METHODS[name], **options}, student.n_queries - 1, student.n_items - 1)
    distiller = cls(student, teacher, seed=seed, **resolved)
    assert isinstance(distiller, EmbeddingDistiller)
    return distiller


def begun(name: str, student: Any, teacher: Any, *, seed: int = 0, **options: Any) -> EmbeddingDistiller:
    """In its first epoch; user u has trained on item 1 + u % n."""
    distiller = made(name, student, teacher, seed=seed, **options)
    users = np.arange(1, student.n_queries)
    distiller.begin_training(Ragged.from_pairs(users, 1 + users % (student.n_items - 1), student.n_queries))
    distiller.begin_epoch(0)
    distiller.reduction = "sum"
    return distiller


def batch_of(
    distiller: EmbeddingDistiller, users: list[int], positives: list[int], negatives: list[int]
) -> DistillBatch:
    """What the teacher-aware loader makes of these rows."""
    loader: Any = SimpleNamespace(_dataset=SimpleNamespace(uid_field="user_id"), times=1)
    aware = TeacherAwareLoader(loader, distiller, distiller.teacher_scores)
    aware.ask_teacher()
    return aware.batch_of(*(torch.tensor(ids) for ids in (users, positives, negatives)))


ROWS = ([1, 2, 2, 3, 7, 7, 7], [1, 2, 3, 4, 5, 6, 7], [8, 9, 1, 2, 10, 10, 11])


@each_method
def test_a_teacher_without_vectors_is_refused_by_name(name: str) -> None:
    student, _ = random_pair()
    teacher = DenseScores(torch.zeros(13, 21), {"model": "NeuMF"})
    with pytest.raises(TeacherError, match=f"{name} needs the teacher's embeddings and NeuMF"):
        made(name, student, teacher)


@each_method
def test_a_student_without_vectors_is_refused_by_name(name: str, tiny_dataset: TinyData) -> None:
    case = build_case(tiny_dataset, "NeuMF")
    scorer = Scorer(case.model)
    teacher = FactorScores(torch.zeros(scorer.n_queries, 4), torch.zeros(scorer.n_items, 4), {"model": "MF"})
    with pytest.raises(ConfigError, match=f"{name} needs the vectors of the student and NeuMF has none"):
        made(name, scorer, teacher)


@each_method
def test_a_mean_is_the_sum_over_rows(name: str) -> None:
    distiller = begun(name, *random_pair())
    batch = batch_of(distiller, *ROWS)
    values = {}
    for reduction in ("sum", "mean"):
        distiller.reduction = reduction
        states = {n: s.clone() for n, s in distiller.sampling_state().items()}
        values[reduction] = float(distiller(batch).detach())
        distiller.restore_sampling(states)
    assert values["sum"] == pytest.approx(7 * values["mean"], rel=1e-5) and values["sum"] > 0


@each_method
@pytest.mark.parametrize("scale", [100.0, 0.0])
def test_extreme_vectors_stay_finite(name: str, scale: float) -> None:
    """Scores of 1e4 and beyond; and vectors that are all zero."""
    student, teacher = random_pair(scale=scale, width=9)
    for epoch in (0, 1000):
        distiller = begun(name, student, teacher)
        distiller.begin_epoch(epoch)
        loss = distiller(batch_of(distiller, *ROWS))
        loss.backward()
        gradients = [p.grad for p in (student.users, student.items, *distiller.parameters()) if p.grad is not None]
        assert bool(loss.isfinite()) and all(bool(g.isfinite().all()) for g in gradients)


@each_method
def test_two_items_and_a_batch_without_negatives(name: str) -> None:
    student, teacher = random_pair(n_users=3, n_items=2)
    distiller = begun(name, student, teacher)
    batch = batch_of(distiller, [1, 3], [1, 2], [2, 1])
    assert bool(distiller(batch).isfinite())
    batch.negatives = None
    assert bool(distiller(batch).isfinite())
    batch.positives = None
    assert bool(distiller(batch).isfinite())


@each_method
def test_the_seed_alone_decides_and_the_global_generator_is_left_alone(name: str) -> None:
    found: list[list[Tensor]] = []
    for seed in (4, 4, 5):
        torch.manual_seed(len(found))
        before = torch.get_rng_state()
        distiller = begun(name, *random_pair(), seed=seed)
        loss = distiller(batch_of(distiller, *ROWS))
        loss.backward()
        assert torch.equal(before, torch.get_rng_state())
        found.append([loss.detach(), *(p.detach() for p in distiller.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(found[0], found[1], strict=True))
    assert name == "FTD" or not all(torch.equal(a, b) for a, b in zip(found[0], found[2], strict=True))


@each_method
def test_the_pad_has_no_part(name: str) -> None:
    student, teacher = random_pair()
    distiller = begun(name, student, teacher)
    distiller(batch_of(distiller, *ROWS)).backward()
    for table in (student.users, student.items):
        assert table.grad is not None and bool(table.grad.any()) and not bool(table.grad[0].any())


@each_method
@pytest.mark.parametrize("model", ["MF", "LightGCN"])
def test_a_real_training(name: str, model: str, tiny_dataset: TinyData, tmp_path: Path) -> None:
    """Networks are trained with the student and stay out of its checkpoint; the loss falls."""
    case = build_case(tiny_dataset, model, epochs=4, learning_rate=0.02, kd=name)
    generator = torch.Generator().manual_seed(0)
    scorer = Scorer(case.model)
    sizes = ((scorer.n_queries, 12), (scorer.n_items, 12))
    teacher = FactorScores(*(torch.randn(size, generator=generator) for size in sizes), {"model": "MF"})
    fixed = (
        {"n_groups": 1} if name == "HTD" else {}
    )  # more groups change with the training, and the number of pairs with them
    distiller = made(name, scorer, teacher, **fixed)
    distiller.weight = 1.0  # the base loss of this data pulls all vectors onto two directions
    distiller.reduction = getattr(case.model, "loss_reduction", "mean")
    start = [p.detach().clone() for p in distiller.parameters()]
    trainer = recbole_kd.KDTrainer(case.config, case.model, distiller, checkpoint=tmp_path / "student.pth")
    trainer.fit(case.loaders.train, case.loaders.valid)
    assert len(trainer.kd_loss) == 4 and min(trainer.kd_loss[2:]) < trainer.kd_loss[0]
    if start:
        moved = [not torch.equal(p.detach(), before) for p, before in zip(distiller.parameters(), start, strict=True)]
        assert any(moved)
    saved = torch.load(tmp_path / "student.pth", weights_only=False)["state_dict"]
    assert set(saved) == set(case.model.state_dict())


OWN_FILES = sorted(
    path.stem for path in (properties_dir() / "distiller").glob("*.yaml") if path.stem.split("-")[0] in METHODS
)


@pytest.mark.parametrize("file", OWN_FILES)
def test_property_files_hold_what_the_methods_take(file: str) -> None:
    """A method's file lists every option with the constructor's default.

    A pair's file is an overlay that the method accepts.
    """
    name = file.split("-")[0]
    own, pair = (read_config_file(properties_dir() / "distiller" / f"{stem}.yaml") for stem in (name, file))
    options = distiller_options(distiller_class(name))
    assert own == {"kd_weight": own["kd_weight"], **{f"kd_{key}": p.default for key, p in options.items()}}
    assert set(pair) <= {*own, "learning_rate", "weight_decay", "train_batch_size"}
    assert all(isinstance(value, int | float | str) for value in pair.values()) and isinstance(
        pair.get("weight_decay", 0.0), float
    )
    check_distiller(name, {"kd_refresh": 1, "kd_compare": True, **own, **pair}, 5000, 20000)


@each_method
def test_a_configuration_builds_the_method(name: str, tiny_dataset: TinyData) -> None:
    small = {f"kd_{key}": value for key, value in METHODS[name].items()}
    case = build_case(tiny_dataset, "MF", kd=name, kd_weight=3.0, **small)
    scorer = Scorer(case.model)
    teacher = FactorScores(torch.randn(scorer.n_queries, 12), torch.randn(scorer.n_items, 12), {"model": "LightGCN"})
    distiller = recbole_kd.build_distiller(case.config, case.model, teacher)
    assert type(distiller) is distiller_class(name) and distiller.weight == 3.0 and distiller.reduction == "sum"


def test_graph_students_pull_with_propagated_vectors(tiny_dataset: TinyData) -> None:
    case = build_case(tiny_dataset, "LightGCN")
    scorer = Scorer(case.model)
    ego = scorer.ego_tables()
    assert ego[0] is case.model.user_embedding.weight and ego[1] is case.model.item_embedding.weight
    teacher = FactorScores(torch.randn(scorer.n_queries, 12), torch.randn(scorer.n_items, 12), {"model": "MF"})
    distiller = made("DE", scorer, teacher)
    users = torch.arange(scorer.n_queries)
    own = distiller.student_vectors("users", users)
    torch.testing.assert_close(own, case.model.forward()[0])
    assert not torch.allclose(own, ego[0])


def test_a_model_without_tables_of_its_own_has_no_ego_tables(tiny_dataset: TinyData) -> None:
    case = build_case(tiny_dataset, "MF")
    case.model.item_embedding = nn.Embedding(3, 8)
    with pytest.raises(ConfigError, match="MF has no user_embedding and item_embedding"):
        Scorer(case.model).ego_tables()


# -- the batch's items
# ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "n_negatives"), [("MF", 1), ("MF", 3), ("NeuMF", 1), ("NeuMF", 2)])
def test_batches_carry_their_items_where_asked(model: str, n_negatives: int, tiny_dataset: TinyData) -> None:
    """Pairwise and pointwise loaders: positives are training pairs row by row, negatives none of them."""
    given = {"distribution": "uniform", "sample_num": n_negatives, "alpha": 1.0, "dynamic": False, "candidate_num": 0}
    case = build_case(tiny_dataset, model, train_neg_sample_args=given)
    dataset = case.splits.parts[0]
    pairs = set(zip(dataset.inter_feat["user_id"].tolist(), dataset.inter_feat["item_id"].tolist(), strict=True))
    student, teacher = random_pair(n_users=30, n_items=40)
    for needs_items in (True, False):
        distiller = begun("FTD", student, teacher)
        distiller.needs_items = needs_items  # type: ignore[misc]
        rows = 0
        for interaction in TeacherAwareLoader(case.loaders.train, distiller, teacher):
            batch = interaction.to("cpu").kd
            if not needs_items:
                assert batch.positives is None and batch.negatives is None
                continue
            assert batch.positives is not None and batch.negatives is not None
            users = interaction["user_id"]
            n = len(batch.positives)
            rows += n
            assert len(batch.negatives) == n * n_negatives and n == int(batch.weights.sum())
            assert all(pair in pairs for pair in zip(users[:n].tolist(), batch.positives.tolist(), strict=True))
            repeated = users[:n].repeat(n_negatives)
            assert not any(pair in pairs for pair in zip(repeated.tolist(), batch.negatives.tolist(), strict=True))
        assert rows == (len(pairs) if needs_items else 0)
