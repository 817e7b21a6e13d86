"""The teacher-aware loader yields RecBole's batches.

Each has the item sets of its users and the teacher's scores of them.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recbole_kd.data.train_items import train_items
from recbole_kd.distiller import set_scores
from recbole_kd.distiller.base import DistillBatch, Distiller
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.teacher.base import TeacherScores
from recbole_kd.teacher.export import export_teacher
from recbole_kd.teacher.load import load_teacher
from recbole_kd.training.teacher_loader import KDInteraction, TeacherAwareLoader
from tests.support.helpers import Case, TinyData, build_case, dataset_of


class TwoSets(Distiller):
    """Draws one set once and another one anew each epoch."""

    def begin_epoch(self, epoch: int) -> None:
        shape = (self.student_scorer.n_queries, 4)
        new = torch.randint(1, self.student_scorer.n_items, shape, generator=self.generator)
        kept = self.item_sets.get("kept", new.flip(1))
        self.item_sets = {"kept": kept, "new": new}

    def forward(self, batch: DistillBatch) -> Tensor:
        return batch.sets["new"].teacher.sum()


class Recorded(TeacherScores):
    """Scores that say which pair they belong to, and what was asked."""

    store = "recorded"

    def __init__(self, n_queries: int, n_items: int) -> None:
        super().__init__(n_queries, n_items)
        self.asked: list[tuple[int, ...]] = []

    def full(self, queries: Tensor) -> Tensor:
        return queries.unsqueeze(1) * 1000.0 + torch.arange(self.n_items)

    def at(self, queries: Tensor, items: Tensor) -> Tensor:
        self.asked.append(tuple(items.shape))
        return super().at(queries, items)


def wrapped(case: Case, teacher: TeacherScores | None = None) -> tuple[TeacherAwareLoader, TwoSets]:
    scorer = Scorer(case.model)
    teacher = teacher or Recorded(scorer.n_queries, scorer.n_items)
    distiller = TwoSets(scorer, teacher)
    loader = TeacherAwareLoader(case.loaders.train, distiller, teacher)
    distiller.begin_epoch(0)
    loader.ask_teacher()
    return loader, distiller


def positives(case: Case) -> Counter[int]:
    dataset = case.splits.parts[0]
    return Counter(dataset.inter_feat[dataset.uid_field].tolist())


def test_batches_are_the_same_from_every_store(tiny_dataset: TinyData, tmp_path: Path) -> None:
    case = build_case(tiny_dataset, "LightGCN")
    found: dict[str, list[DistillBatch]] = {}
    manifest = {"model": "LightGCN", "dataset": tiny_dataset.name, "settings": {}, "data": case.splits.fingerprint}
    manifest["settings"] = {key: case.config[key] for key in ("embedding_size", "n_layers", "reg_weight")}
    for store in ("factors", "dense", "online"):
        export_teacher(Scorer(case.model), tmp_path / store, manifest, store)
        loader, _ = wrapped(case, load_teacher(tmp_path / store, case.loaders.train))
        found[store] = [loader.batch_of(torch.tensor(users)) for users in ([3, 3, 7], [1], list(range(1, 31)))]
    for store in ("dense", "online"):
        for batch, expected in zip(found[store], found["factors"], strict=True):
            assert torch.equal(batch.queries, expected.queries)
            for name, items in expected.sets.items():
                assert torch.equal(batch.sets[name].ids, items.ids)
                torch.testing.assert_close(batch.sets[name].teacher, items.teacher, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "given", "times"),
    [
        ("MF", {}, 1),
        ("MF", {"train_neg_sample_args": {"sample_num": 2}}, 2),
        ("NeuMF", {}, 2),
        ("NeuMF", {"train_neg_sample_args": {"sample_num": 3}}, 4),
    ],
)
def test_weights_count_the_positive_rows(tiny_dataset: TinyData, name: str, given: dict[str, Any], times: int) -> None:
    case = build_case(tiny_dataset, name, **given)
    loader, distiller = wrapped(case)
    total: Counter[int] = Counter()
    n_batches = 0
    for interaction in loader:
        users, kd = interaction["user_id"], interaction.kd
        assert len(users) % times == 0
        rows = users[: len(users) // times]
        if "label" in interaction:
            assert bool((interaction["label"][: len(rows)] == 1).all())
        assert dict(zip(kd.queries.tolist(), kd.weights.tolist(), strict=True)) == Counter(rows.tolist())
        assert kd.queries.tolist() == sorted(set(rows.tolist()))
        for set_name, items in kd.sets.items():
            assert torch.equal(items.ids, distiller.item_sets[set_name][kd.queries])
            assert torch.equal(items.teacher, kd.queries.unsqueeze(1) * 1000.0 + items.ids)
        total.update(
            {query: int(weight) for query, weight in zip(kd.queries.tolist(), kd.weights.tolist(), strict=True)}
        )
        n_batches += 1
    assert total == positives(case)
    assert n_batches == len(loader)


def test_a_loader_per_user_has_no_pad(tiny_dataset: TinyData) -> None:
    case = build_case(tiny_dataset, "MultiVAE")
    loader, _ = wrapped(case)
    listed: list[int] = []
    for interaction in loader:
        listed += interaction.kd.queries.tolist()
        assert bool((interaction.kd.weights == 1).all())
        assert len(interaction.kd.sets["new"].ids) == len(interaction.kd.queries)
    assert sorted(listed) == list(range(1, 31))


def test_a_kept_set_is_not_asked_again(tiny_dataset: TinyData) -> None:
    case = build_case(tiny_dataset, "MF")
    loader, distiller = wrapped(case)
    teacher = loader.teacher
    assert isinstance(teacher, Recorded)
    assert len(teacher.asked) == 2
    list(loader)
    assert len(teacher.asked) == 2, "batches are cut from what was asked at the epoch's start"
    distiller.begin_epoch(1)
    loader.ask_teacher()
    assert len(teacher.asked) == 3
    loader.ask_teacher()
    assert len(teacher.asked) == 3
    batch = loader.batch_of(torch.tensor([5]))
    assert torch.equal(batch.sets["new"].ids, distiller.item_sets["new"][[5]])
    assert torch.equal(batch.sets["kept"].teacher, 5000.0 + distiller.item_sets["kept"][[5]])


def test_the_teacher_is_asked_in_blocks(tiny_dataset: TinyData, monkeypatch: pytest.MonkeyPatch) -> None:
    case = build_case(tiny_dataset, "MF")
    expected, _ = wrapped(case)
    monkeypatch.setattr(set_scores, "blocks", lambda n, width, device: (slice(s, s + 7) for s in range(0, n, 7)))
    loader, _ = wrapped(case)
    assert isinstance(loader.teacher, Recorded)
    assert {rows for rows, _ in loader.teacher.asked} == {7, 31 % 7}
    users = torch.arange(1, 31)
    assert torch.equal(loader.batch_of(users).sets["new"].teacher, expected.batch_of(users).sets["new"].teacher)


def test_the_batch_survives_a_move(tiny_dataset: TinyData) -> None:
    loader, _ = wrapped(build_case(tiny_dataset, "MF"))
    interaction = next(iter(loader))
    moved = interaction.to(torch.device("cpu"))
    assert isinstance(moved, KDInteraction)
    assert torch.equal(moved.kd.queries, interaction.kd.queries)
    assert torch.equal(moved["user_id"], interaction["user_id"])
    there = interaction.to("meta")
    assert there.kd.sets["new"].teacher.device.type == there.kd.weights.device.type == "meta"


def test_a_wrapped_loader_passes_for_the_loader(tiny_dataset: TinyData) -> None:
    case = build_case(tiny_dataset, "MF")
    loader, _ = wrapped(case)
    assert len(loader) == len(case.loaders.train)
    assert loader.generator is case.loaders.train.generator
    assert (
        dataset_of(loader) is dataset_of(case.loaders.train) and dataset_of(loader).split_part is case.splits.parts[0]
    )


def test_training_items_are_those_of_the_training_part(tiny_dataset: TinyData) -> None:
    case = build_case(tiny_dataset, "MF")
    items = train_items(case.loaders.train)
    assert torch.equal(items.items, train_items(case.splits.parts[0]).items)
    counts = positives(case)
    assert items.counts().tolist() == [counts.get(user, 0) for user in range(31)]
    dataset = case.splits.parts[0]
    pairs = {*zip(dataset.inter_feat["user_id"].tolist(), dataset.inter_feat["item_id"].tolist(), strict=True)}
    row, item = items.pairs(torch.arange(31))
    assert {*zip(row.tolist(), item.tolist(), strict=True)} == pairs
