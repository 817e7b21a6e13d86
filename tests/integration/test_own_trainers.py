"""Trainers of one's own that distil, and the teacher's lists in RecBole's batches."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.trainer import Trainer
from recbole.utils import get_model, get_trainer, init_seed

import recbole_kd
from recbole_kd.training import teacher_interactions
from tests.support.helpers import SEQUENTIAL, TinyData, dataset_of
from tests.support.recbole_scripts import folder_of, recboles

KD = {"kd": "RCEKD", "kd_k": 5, "kd_n_samples": 5, "kd_candidates": 10, "kd_weight": 2.0}


@pytest.fixture(autouse=True)
def _no_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["script.py"])


def parts(
    data: TinyData, folder: Path, model: str = "BPR", teacher: str = "MF", **given: Any
) -> tuple[Any, Any, Any, Any, Any]:
    """Config, student, distiller and loaders."""
    split = {"eval_args": SEQUENTIAL["eval_args"]} if "SASRec" in (model, teacher) else {}
    path = folder_of(data, teacher, folder / "teacher", **split)
    method = {**(KD if "kd" not in given else {}), **given}
    config, train, valid, _ = recboles(data, model, epochs=2, checkpoint_dir=str(folder), **split, **method)
    init_seed(config["seed"], True)
    student = get_model(model)(config, dataset_of(train))
    return (
        config,
        student,
        recbole_kd.build_distiller(config, student, recbole_kd.load_teacher(path, train), train),
        train,
        valid,
    )


class WithHook(Trainer):  # type: ignore[misc]
    """Counts its epochs and leaves the loop to RecBole."""

    epochs_seen = 0

    def _train_epoch(self, *args: Any, **options: Any) -> Any:
        self.epochs_seen += 1
        return super()._train_epoch(*args, **options)


class WithLoop(Trainer):  # type: ignore[misc]
    """A loop of its own, which makes its batches anew."""

    def _train_epoch(
        self, train_data: Any, epoch_idx: int, loss_func: Any = None, show_progress: bool = False
    ) -> float:
        self.model.train()
        total = 0.0
        for batch in train_data:
            self.optimizer.zero_grad()
            loss = self.model.calculate_loss(type(batch).__mro__[-2](batch.to(self.device).interaction))
            loss.backward()
            self.optimizer.step()
            total += float(loss.detach())
        return total


class WithLossOfItsOwn(Trainer):  # type: ignore[misc]
    """Never asks the model for its loss."""

    def _train_epoch(self, train_data: Any, *args: Any, **options: Any) -> float:
        return float(sum(len(batch) for batch in train_data))


class WithFitOfItsOwn(Trainer):  # type: ignore[misc]
    """Never comes to an epoch of RecBole's."""

    def fit(self, train_data: Any, *args: Any, **options: Any) -> tuple[float, Any]:
        return 0.0, None


@pytest.mark.parametrize("kind", [Trainer, WithHook, WithLoop])
@pytest.mark.parametrize("model", ["BPR", "SASRec", "NeuMF"])
def test_a_trainer_is_made_to_distil(tiny_dataset: TinyData, tmp_path: Path, kind: type[Any], model: str) -> None:
    config, student, distiller, train, valid = parts(tiny_dataset, tmp_path, model)
    alone = [parameter.detach().clone() for parameter in student.parameters()]
    trainer = kind(config, student)
    assert recbole_kd.distil(trainer, distiller) is trainer and type(trainer) is kind
    trainer.fit(train, valid, saved=False)
    assert len(trainer.kd_loss) == 2 and min(trainer.kd_loss) > 0
    assert "calculate_loss" not in vars(student) and any(
        map(torch.ne, map(torch.sum, alone), map(torch.sum, student.parameters()))
    )


def test_a_joined_trainer_learns_what_a_kd_trainer_learns(tiny_dataset: TinyData, tmp_path: Path) -> None:
    config, student, distiller, train, valid = parts(tiny_dataset, tmp_path / "one")
    joined = recbole_kd.distil(Trainer(config, student), distiller)
    joined.fit(train, valid, saved=False)
    config, other, distiller, train, valid = parts(tiny_dataset, tmp_path / "other")
    own = recbole_kd.KDTrainer(config, other, distiller)
    own.fit(train, valid, saved=False)
    assert joined.kd_loss == pytest.approx(own.kd_loss, rel=1e-6)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(student.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("kind", [Trainer, recbole_kd.KDTrainer])
def test_what_a_method_learns_itself_is_trained_with_the_student(
    tiny_dataset: TinyData, tmp_path: Path, kind: type[Any]
) -> None:
    config, student, distiller, train, valid = parts(tiny_dataset, tmp_path, kd="DE")
    before = [parameter.detach().clone() for parameter in distiller.parameters()]
    recbole_kd.distil(kind(config, student), distiller).fit(train, valid, saved=False)
    assert before and all(not torch.equal(a, b) for a, b in zip(before, distiller.parameters(), strict=True))


@pytest.mark.parametrize(
    ("kind", "words"),
    [(WithLossOfItsOwn, "never calls self.model.calculate_loss"), (WithFitOfItsOwn, "never calls _train_epoch")],
)
def test_a_trainer_that_would_distil_nothing_is_refused(
    tiny_dataset: TinyData, tmp_path: Path, kind: type[Any], words: str
) -> None:
    config, student, distiller, train, valid = parts(tiny_dataset, tmp_path)
    trainer = recbole_kd.distil(kind(config, student), distiller)
    with pytest.raises(recbole_kd.ConfigError, match=words):
        trainer.fit(train, valid, saved=False)


@pytest.mark.parametrize("kind", [Trainer, WithHook, WithLoop])
def test_a_trainer_that_knows_no_distillation_refuses_kd(
    tiny_dataset: TinyData, tmp_path: Path, kind: type[Any]
) -> None:
    config, student, _, train, valid = parts(tiny_dataset, tmp_path)
    with pytest.raises(
        recbole_kd.ConfigError, match=r"kd=\w+ has no effect on \w+.*recbole_kd\.KDTrainer.*recbole_kd\.distil"
    ):
        kind(config, student).fit(train, valid)


def test_recboles_own_trainers_and_a_second_distiller_are_refused_by_name(
    tiny_dataset: TinyData, tmp_path: Path
) -> None:
    config, student, distiller, _, _ = parts(tiny_dataset, tmp_path)
    from recbole.trainer.trainer import RecVAETrainer

    with pytest.raises(recbole_kd.ConfigError, match="cannot join RecVAETrainer"):
        recbole_kd.distil(RecVAETrainer.__new__(RecVAETrainer), distiller)
    trainer = recbole_kd.distil(Trainer(config, student), distiller)
    with pytest.raises(recbole_kd.ConfigError, match="distils already, by RCEKD"):
        recbole_kd.distil(trainer, distiller)


class Mine(recbole_kd.KDTrainer):
    """A subclass, as the README has it."""

    epochs_seen = 0

    def _train_epoch(self, *args: Any, **options: Any) -> Any:
        self.epochs_seen += 1
        return super()._train_epoch(*args, **options)


def test_a_subclass_distils_with_a_distiller_or_from_the_configuration(tiny_dataset: TinyData, tmp_path: Path) -> None:
    config, student, distiller, train, valid = parts(tiny_dataset, tmp_path)
    by_hand = Mine(config, student, distiller)
    by_hand.fit(train, valid, saved=False)
    config, student, _, train, valid = parts(tiny_dataset, tmp_path / "again", teacher_path=str(tmp_path / "teacher"))
    configured = Mine(config, student)
    configured.fit(train, valid, saved=False)
    assert by_hand.epochs_seen == configured.epochs_seen == 2 and configured.kd_loss == by_hand.kd_loss


def test_a_class_that_chooses_is_no_base(tiny_dataset: TinyData, tmp_path: Path) -> None:
    config, student, _, _, _ = parts(tiny_dataset, tmp_path)
    chooser = get_trainer(config["MODEL_TYPE"], "BPR")
    with pytest.raises(recbole_kd.ConfigError, match=r"derive it from recbole_kd\.KDTrainer"):
        type("Wrong", (chooser,), {})(config, student)


# -- the teacher's lists
# ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "teacher"),
    [
        ("BPR", "MF"),
        ("NeuMF", "MF"),
        ("MultiVAE", "MF"),
        ("SASRec", "MF"),
        ("SASRec", "SASRec"),
        ("HSTU", "SASRec"),
        ("BPR", "SASRec"),
    ],
)
def test_batches_carry_the_teachers_lists(tiny_dataset: TinyData, tmp_path: Path, model: str, teacher: str) -> None:
    split = {"eval_args": SEQUENTIAL["eval_args"]}
    path = folder_of(tiny_dataset, teacher, tmp_path / "teacher", **split)
    _, train, _, _ = recboles(tiny_dataset, model, **split)
    scores = recbole_kd.load_teacher(path, train)
    loader = recbole_kd.teacher_loader(train, scores, k=7)
    init_seed(1, True)
    train.generator.manual_seed(3)
    plain = list(train)
    init_seed(1, True)
    train.generator.manual_seed(3)
    batches = list(loader)
    assert len(batches) == len(plain) == len(loader)
    from recbole_kd.training.teacher_interactions import asked_about

    asked = asked_about(train, scores)
    for batch, same in zip(batches, plain, strict=True):
        assert all(torch.equal(batch[name], same[name]) for name in same.columns)
        items, values = batch["teacher_items"], batch["teacher_scores"]
        assert (
            items.shape == values.shape == (len(batch), 7)
            and items.dtype == torch.int64
            and values.dtype == torch.float32
        )
        queries = batch["kd_query"] if "kd_query" in batch else batch["user_id"]
        real = queries > 0
        everything = asked.full(queries[real])
        everything[:, 0] = -torch.inf
        best = everything.topk(7).values
        assert torch.allclose(values[real], best, atol=1e-5) and torch.allclose(
            everything.gather(1, items[real]), best, atol=1e-5
        )
        assert not items[~real].any() and not values[~real].any()


def test_lists_too_large_to_keep_are_asked_for_batch_by_batch(
    tiny_dataset: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder_of(tiny_dataset, "MF", tmp_path / "teacher")
    _, train, _, _ = recboles(tiny_dataset, "BPR")
    kept = recbole_kd.teacher_loader(train, path, k=5)
    queries = torch.tensor([3, 3, 1, 0, 7])
    wanted = kept._lists_of(queries)
    monkeypatch.setattr(teacher_interactions, "KEPT_BYTES", 0)
    asked = recbole_kd.teacher_loader(train, path, k=5)
    found = asked._lists_of(queries)
    assert asked._lists is None and all(map(torch.equal, wanted, found))


@pytest.mark.parametrize("k", [0, 41, 2.0, True])
def test_a_length_that_cannot_be_is_refused(tiny_dataset: TinyData, tmp_path: Path, k: Any) -> None:
    path = folder_of(tiny_dataset, "MF", tmp_path / "teacher")
    _, train, _, _ = recboles(tiny_dataset, "BPR")
    with pytest.raises(
        recbole_kd.ConfigError, match=r"expected an integer from 1 to 40 \(the number of items\)\. Try k=40"
    ):
        recbole_kd.teacher_loader(train, path, k=k)


def test_recboles_trainer_takes_the_loader(tiny_dataset: TinyData, tmp_path: Path) -> None:
    path = folder_of(tiny_dataset, "MF", tmp_path / "teacher")
    config, train, valid, _ = recboles(tiny_dataset, "BPR", checkpoint_dir=str(tmp_path))
    student = get_model("BPR")(config, dataset_of(train))
    base, seen = student.calculate_loss, []

    def with_lists(interaction: Any) -> Any:
        seen.append(interaction["teacher_items"].shape)
        users, items = (
            student.user_embedding.weight[interaction["user_id"]],
            student.item_embedding.weight[interaction["teacher_items"]],
        )
        return base(interaction) - torch.einsum("bd,bkd->bk", users, items).log_softmax(dim=1)[:, 0].mean()

    student.calculate_loss = with_lists
    Trainer(config, student).fit(recbole_kd.teacher_loader(train, path, k=5), valid, saved=False)
    assert seen and all(shape[1] == 5 for shape in seen)
