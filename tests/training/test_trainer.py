"""KDTrainer: RecBole's Trainer plus a distiller, used the way a RecBole user would."""

from __future__ import annotations

import copy
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.quick_start import load_data_and_model
from recbole.trainer import Trainer
from torch import Tensor, nn

import recbole_kd
from recbole_kd.acceleration.lightgcn_propagation import accelerate
from recbole_kd.cli.run import main
from recbole_kd.distiller import rcekd
from recbole_kd.distiller.base import DistillBatch, Distiller
from recbole_kd.errors import ConfigError, TeacherError
from recbole_kd.integration.trainer_files import without_files
from recbole_kd.training import build_distiller as build_module
from recbole_kd.training import epoch_threads
from tests.support.helpers import TinyData
from tests.support.recbole_scripts import recbole_parts
from tests.support.runs import results, run, words

TEACHER = {"teacher.embedding_size": "8", "teacher.epochs": "2"}


@pytest.fixture(scope="module")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A teacher as a run leaves it in its cache, on the tiny data set."""
    return str(run(tmp_path_factory.mktemp("teacher"), kd_compare="False")["teacher"]["path"])


@pytest.mark.parametrize("model", ["MF", "BPR", "LightGCN", "NeuMF", "MultiVAE"])
def test_three_lines_in_a_recbole_project(
    model: str, tiny_dataset: TinyData, teacher_folder: str, tmp_path: Path
) -> None:
    given = {"epochs": 10, "learning_rate": 0.02, **({"train_neg_sample_args": None} if model == "MultiVAE" else {})}
    config, student, train_data, valid_data, test_data = recbole_parts(tiny_dataset, model, tmp_path, **given)

    teacher = recbole_kd.load_teacher(teacher_folder, train_data)
    distiller = recbole_kd.build_distiller(config, student, teacher)
    trainer = recbole_kd.KDTrainer(config, student, distiller)
    score, metrics = trainer.fit(train_data, valid_data)

    assert len(trainer.kd_loss) == 10 and all(loss > 0 for loss in trainer.kd_loss)
    assert metrics["ndcg@10"] == score > 0.05
    assert trainer.evaluate(test_data)["ndcg@10"] > 0.05


def per_epoch(trainer: Trainer, train_data: Any, valid_data: Any) -> list[float]:
    scores: list[float] = []
    trainer.fit(train_data, valid_data, callback_fn=lambda epoch, score: scores.append(score))
    return scores


@pytest.mark.parametrize("model", ["BPR", "MF", "LightGCN", "NGCF"])
def test_weight_zero_is_recboles_own_training(
    model: str, tiny_dataset: TinyData, teacher_folder: str, tmp_path: Path
) -> None:
    config, student, train_data, valid_data, _ = recbole_parts(
        tiny_dataset, model, tmp_path / "plain", epochs=3, kd=None
    )
    plain = per_epoch(Trainer(config, student), train_data, valid_data)
    config, student, train_data, valid_data, _ = recbole_parts(
        tiny_dataset, model, tmp_path / "kd", epochs=3, kd_weight=0.0
    )
    distiller = recbole_kd.build_distiller(config, student, recbole_kd.load_teacher(teacher_folder, train_data))
    assert per_epoch(recbole_kd.KDTrainer(config, student, distiller), train_data, valid_data) == plain
    config, student, train_data, valid_data, _ = recbole_parts(
        tiny_dataset, model, tmp_path / "none", epochs=3, kd=None
    )
    assert per_epoch(recbole_kd.KDTrainer(config, student), train_data, valid_data) == plain


def test_a_given_distiller_leaves_kd_track_its_effect(
    tiny_dataset: TinyData, teacher_folder: str, tmp_path: Path
) -> None:
    config, student, train_data, valid_data, _ = recbole_parts(
        tiny_dataset, "MF", tmp_path, epochs=1, kd_track=["train_ndcg"]
    )
    distiller = recbole_kd.build_distiller(config, student, recbole_kd.load_teacher(teacher_folder, train_data))
    trainer = recbole_kd.KDTrainer(config, student, distiller)
    trainer.fit(train_data, valid_data)
    assert trainer.history[0]["train_ndcg@10"] >= 0


def test_kd_loss_is_reported_without_its_weight(tiny_dataset: TinyData, teacher_folder: str, tmp_path: Path) -> None:
    first: dict[float, float] = {}
    for weight in (0.0, 1.0, 1e-3):
        given = {"epochs": 1, "kd_weight": weight, "learning_rate": 1e-30}  # the same student throughout
        config, student, train_data, valid_data, _ = recbole_parts(tiny_dataset, "MF", tmp_path, **given)
        distiller = recbole_kd.build_distiller(config, student, recbole_kd.load_teacher(teacher_folder, train_data))
        trainer = recbole_kd.KDTrainer(config, student, distiller)
        trainer.fit(train_data, valid_data)
        first[weight] = trainer.kd_loss[0]
    assert first[1.0] > 0 and first[0.0] == pytest.approx(first[1.0]) and first[1e-3] == pytest.approx(first[1.0])


@pytest.mark.parametrize("kd", ["CE", "RCEKD"])
def test_a_batch_of_the_pad_alone_has_no_kd_loss(
    kd: str, tiny_dataset: TinyData, teacher_folder: str, tmp_path: Path
) -> None:
    given = {
        "epochs": 1,
        "kd": kd,
        "kd_k": 5,
        "train_batch_size": 1,
    }  # RecBole's per-user loader lists the pad as a user
    config, student, train_data, valid_data, _ = recbole_parts(tiny_dataset, "MultiVAE", tmp_path, **given)
    distiller = recbole_kd.build_distiller(config, student, recbole_kd.load_teacher(teacher_folder, train_data))
    trainer = recbole_kd.KDTrainer(config, student, distiller)
    trainer.fit(train_data, valid_data)
    assert math.isfinite(trainer.kd_loss[0]) and trainer.kd_loss[0] > 0


def test_a_mistyped_key_in_a_recbole_project_is_refused(
    tiny_dataset: TinyData, teacher_folder: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"kd_tua.*kd_tau"):
        recbole_parts(tiny_dataset, "MF", tmp_path, kd_tua=3.0)
    config, student, train_data, *_ = recbole_parts(tiny_dataset, "MF", tmp_path)
    config["kd_tua"] = 3.0
    with pytest.raises(ConfigError, match=r"kd_tua.*kd_tau"):
        recbole_kd.build_distiller(config, student, recbole_kd.load_teacher(teacher_folder, train_data))


def test_scalars_of_others_stay(tiny_dataset: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config, student, *_ = recbole_parts(tiny_dataset, "MF", tmp_path)
    others = tmp_path / "log_tensorboard" / "run" / "events.others"
    others.parent.mkdir(parents=True)
    others.write_text("theirs")
    recbole_kd.KDTrainer(config, student, scalars=tmp_path / "mine")
    assert [path for path in (tmp_path / "log_tensorboard").rglob("*") if path.is_file()] == [others]
    assert list((tmp_path / "mine").iterdir())


def test_trainers_made_side_by_side_leave_recbole_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole.trainer import trainer as recbole_trainer

    monkeypatch.chdir(tmp_path)
    before = recbole_trainer.get_tensorboard, recbole_trainer.ensure_dir

    def make(_: int) -> None:
        for _ in range(40):
            with without_files():
                recbole_trainer.ensure_dir("saved")
                recbole_trainer.get_tensorboard(None).add_scalar("a", 1.0, 0)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(make, range(4)))
    assert (recbole_trainer.get_tensorboard, recbole_trainer.ensure_dir) == before
    assert not list(tmp_path.iterdir())


def test_teacher_of_another_split_is_refused_by_fit(
    tiny_dataset: TinyData, teacher_folder: str, tmp_path: Path
) -> None:
    config, student, train_data, valid_data, _ = recbole_parts(tiny_dataset, "MF", tmp_path)
    teacher = recbole_kd.load_teacher(teacher_folder, train_data)
    other = {"eval_args": {"split": {"RS": [0.7, 0.2, 0.1]}, "order": "TO", "group_by": "user", "mode": "full"}}
    _, _, train_data, valid_data, _ = recbole_parts(tiny_dataset, "MF", tmp_path, **other)
    trainer = recbole_kd.KDTrainer(config, student, recbole_kd.build_distiller(config, student, teacher))
    with pytest.raises(TeacherError, match="split differs"):
        trainer.fit(train_data, valid_data)


class WithProjector(Distiller):
    """A method with a module of its own."""

    def __init__(self, student: Any, teacher: Any, *, width: int = 3, seed: int = 0) -> None:
        super().__init__(student, teacher, seed=seed)
        self.projector = nn.Linear(1, width)

    def begin_training(self, train_items: Any) -> None:
        super().begin_training(train_items)
        self.item_sets = {"top": self.teacher_scores.top_k(self.all_queries(), 4, train_items)[0]}

    def forward(self, batch: DistillBatch) -> Tensor:
        top = batch.sets["top"]
        student = self.student_scorer.at(batch.queries, top.ids)
        return self.reduce(
            self.projector((student - top.teacher).square().mean(1, keepdim=True)).square().sum(1), batch.weights
        )


def with_projector(data: TinyData, teacher_folder: str, tmp_path: Path, **given: Any) -> tuple[Any, Any, Any]:
    config, student, train_data, valid_data, _ = recbole_parts(data, "MF", tmp_path, epochs=2, **given)
    distiller = WithProjector(recbole_kd.Scorer(student), recbole_kd.load_teacher(teacher_folder, train_data))
    return recbole_kd.KDTrainer(config, student, distiller), train_data, valid_data


def test_modules_of_a_distiller_are_trained_and_not_saved(
    tiny_dataset: TinyData, teacher_folder: str, tmp_path: Path
) -> None:
    trainer, train_data, valid_data = with_projector(tiny_dataset, teacher_folder, tmp_path)
    before = trainer.distiller.projector.weight.detach().clone()
    trainer.fit(train_data, valid_data)
    assert not torch.equal(before, trainer.distiller.projector.weight)
    *_, model, _, _, _, _ = load_data_and_model(trainer.saved_model_file)
    assert set(model.state_dict()) == {"user_embedding.weight", "item_embedding.weight"}


def test_clipping_covers_student_and_distiller(tiny_dataset: TinyData, teacher_folder: str, tmp_path: Path) -> None:
    trainer, train_data, valid_data = with_projector(
        tiny_dataset, teacher_folder, tmp_path, clip_grad_norm={"max_norm": 1e-3}
    )
    norms: list[float] = []

    def measure(optimizer: Any, *_: Any) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        assert any(g is trainer.distiller.projector.weight.grad for g in gradients)
        norms.append(float(torch.linalg.vector_norm(torch.cat([g.flatten() for g in gradients]))))

    trainer.optimizer.register_step_pre_hook(measure)
    trainer.fit(train_data, valid_data)
    assert norms and max(norms) == pytest.approx(1e-3, rel=1e-3), "clipped, not merely small"


@pytest.mark.parametrize("model", ["MF", "LightGCN"])
def test_mixed_precision(model: str, tiny_dataset: TinyData, teacher_folder: str, tmp_path: Path) -> None:
    config, student, train_data, valid_data, _ = recbole_parts(tiny_dataset, model, tmp_path, epochs=2, enable_amp=True)
    accelerate(student)  # RecBole's own sparse product has no bfloat16 on a CPU
    distiller = recbole_kd.build_distiller(config, student, recbole_kd.load_teacher(teacher_folder, train_data))
    trainer = recbole_kd.KDTrainer(config, student, distiller)
    trainer.fit(train_data, valid_data)
    assert all(0 < loss < 1e4 for loss in trainer.kd_loss)


def test_early_stopping(tiny_dataset: TinyData, teacher_folder: str, tmp_path: Path) -> None:
    config, student, train_data, valid_data, _ = recbole_parts(
        tiny_dataset, "MF", tmp_path, epochs=50, learning_rate=1e-9, stopping_step=3
    )
    distiller = recbole_kd.build_distiller(config, student, recbole_kd.load_teacher(teacher_folder, train_data))
    trainer = recbole_kd.KDTrainer(config, student, distiller)
    scores = iter([0.3, 0.2, 0.25, 0.1, 0.1, 0.9])
    trainer._valid_epoch = lambda *_, **__: (next(scores), {"ndcg@10": 0.0})  # type: ignore[method-assign]
    best, _ = trainer.fit(train_data, valid_data)
    assert (
        best == 0.3 and trainer.best_epoch == 0 and len(trainer.kd_loss) == 5 and trainer.stopped_by == "stopping_step"
    )


def test_a_cap_of_minutes_ends_a_training(tiny_dataset: TinyData, teacher_folder: str, tmp_path: Path) -> None:
    config, student, train_data, valid_data, _ = recbole_parts(
        tiny_dataset, "MF", tmp_path, epochs=50, learning_rate=1e-9, max_minutes=1
    )
    distiller = recbole_kd.build_distiller(config, student, recbole_kd.load_teacher(teacher_folder, train_data))
    trainer = recbole_kd.KDTrainer(config, student, distiller)
    scores = iter([0.3, 0.2, 0.25, 0.1])
    trainer._valid_epoch = lambda *_, **__: (next(scores), {"ndcg@10": 0.0})  # type: ignore[method-assign]
    plain = trainer._timed_epoch

    def slow(*args: Any) -> Any:
        losses = plain(*args)
        trainer.epoch_seconds[-1] = 25.0
        return losses

    trainer._timed_epoch = slow  # type: ignore[method-assign]
    assert trainer.fit(train_data, valid_data) == (0.3, {"ndcg@10": 0.0})
    assert len(trainer.kd_loss) == 3 and trainer.best_epoch == 0 and trainer.stopped_by == "max_minutes"


def test_item_sets_are_refreshed_as_often_as_asked(
    tiny_dataset: TinyData, teacher_folder: str, tmp_path: Path, monkeypatch: Any
) -> None:
    config, student, train_data, valid_data, _ = recbole_parts(tiny_dataset, "MF", tmp_path, epochs=5, kd_refresh=2)
    distiller = recbole_kd.build_distiller(config, student, recbole_kd.load_teacher(teacher_folder, train_data))
    begun: list[int] = []
    followed: list[int] = []
    plain = distiller.draw_item_sets
    monkeypatch.setattr(distiller, "draw_item_sets", lambda epoch: (begun.append(epoch), plain(epoch)))
    monkeypatch.setattr(distiller, "follow_epoch", followed.append)
    recbole_kd.KDTrainer(config, student, distiller).fit(train_data, valid_data)
    assert begun == [0, 2, 4] and followed == [0, 1, 2, 3, 4]


def test_a_distiller_of_another_student_is_refused(tiny_dataset: TinyData, teacher_folder: str, tmp_path: Path) -> None:
    config, student, train_data, _, _ = recbole_parts(tiny_dataset, "MF", tmp_path, epochs=1)
    distiller = recbole_kd.build_distiller(config, student, recbole_kd.load_teacher(teacher_folder, train_data))
    other = copy.deepcopy(student)
    with pytest.raises(recbole_kd.ConfigError, match="built for another MF than the MF to be trained"):
        recbole_kd.KDTrainer(config, other, distiller)


def test_keys_published_with_a_pair_are_warned_of(
    tiny_dataset: TinyData,
    teacher_folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    published = {"kd_weight": 7.0, "learning_rate": 0.125, "weight_decay": 0.5, "train_batch_size": 99}
    monkeypatch.setattr(build_module, "distiller_layers", lambda *names: (published, []))
    caplog.set_level("WARNING")  # a run before this test may have set another one
    config, student, train_data, _, _ = recbole_parts(tiny_dataset, "MF", tmp_path, epochs=1, weight_decay=0.25)
    teacher = recbole_kd.load_teacher(teacher_folder, train_data)
    distiller = recbole_kd.build_distiller(config, student, teacher)
    (warning,) = {record.getMessage() for record in caplog.records if "(published" in record.getMessage()}
    assert distiller.weight == 7.0 and "learning_rate=" in warning and "(published: 0.125)" in warning
    assert "weight_decay" not in warning  # the user gave one
    caplog.clear()
    del published["learning_rate"], published["train_batch_size"]
    recbole_kd.build_distiller(config, student, teacher)
    assert not [record for record in caplog.records if "(published" in record.getMessage()]


OUTSIDE = '''
"""A method from outside the package."""

from recbole_kd.distiller.base import Distiller
from recbole_kd.losses.cross_entropy import cross_entropy


class Mine(Distiller):
    """Cross-entropy on the teacher's best items."""

    def __init__(self, student, teacher, *, k: int = 10, seed: int = 0) -> None:
        super().__init__(student, teacher, seed=seed)
        self.k = k

    def begin_training(self, train_items) -> None:
        super().begin_training(train_items)
        self.item_sets = {"top": self.teacher_scores.top_k(self.all_queries(), self.k, train_items)[0]}

    def forward(self, batch):
        top = batch.sets["top"]
        student = self.student_scorer.at(batch.queries, top.ids)
        return self.reduce(cross_entropy(student, top.teacher), batch.weights)
'''


@pytest.mark.parametrize(
    ("model", "in_threads", "most", "threads"),
    [("MF", True, 2**20, 1), ("MF", True, 10, 2), ("LightGCN", True, 2**20, 2), ("MF", False, 2**20, 2)],
)
def test_torch_has_one_thread_where_threads_do_the_work(
    model: str,
    in_threads: bool,
    most: int,
    threads: int,
    tiny_dataset: TinyData,
    teacher_folder: str,
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    monkeypatch.setattr(epoch_threads, "SMALL_MODEL", most)
    monkeypatch.setattr(rcekd.RCEKD, "in_threads", in_threads)
    config, student, train_data, _, _ = recbole_parts(tiny_dataset, model, tmp_path)
    distiller = recbole_kd.build_distiller(config, student, recbole_kd.load_teacher(teacher_folder, train_data))
    trainer = recbole_kd.KDTrainer(config, student, distiller)
    trainer.prepare(train_data)
    seen: list[int] = []
    loss = trainer.model.calculate_loss
    monkeypatch.setattr(
        trainer.model, "calculate_loss", lambda *given: seen.append(torch.get_num_threads()) or loss(*given)
    )
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        trainer._train_epoch(train_data, 0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {threads}


@pytest.mark.parametrize("registered", [False, True])
def test_a_method_from_outside_in_three_steps(
    registered: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine_outside.py").write_text(OUTSIDE)
    (tmp_path / "mine.yaml").write_text("kd_k: 4\nkd_weight: 2.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    if registered:
        monkeypatch.setitem(recbole_kd.DISTILLERS, "Mine", "mine_outside:Mine")
    name = "Mine" if registered else "mine_outside:Mine"
    not_ours = {"kd_k": None, "kd_n_samples": None, "kd_candidates": None}
    given = [*words(tmp_path, kd=name, kd_compare="False", **not_ours), f"--config_files={tmp_path / 'mine.yaml'}"]
    assert main(given) == 0
    result = results(tmp_path)[-1]
    assert result["kd_options"]["kd_k"] == 4 and result["kd_weight"] == 2.0 and len(result["distilled"]["kd_loss"]) == 3
    capsys.readouterr()
    assert main([*given, "--kd_kk=3"]) == 2
    assert "kd_kk" in capsys.readouterr().err
