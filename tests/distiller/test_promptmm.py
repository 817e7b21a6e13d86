"""PromptMM: its losses against the public code's numbers, its rows, and teachers with modalities in every store."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recbole_kd.cli.run import main
from recbole_kd.config.merging import merge_sources
from recbole_kd.config.parsing import parse_arguments
from recbole_kd.data.item_features.configured import record_features
from recbole_kd.distiller.base import DistillBatch
from recbole_kd.distiller.promptmm import PromptMM, _one_of
from recbole_kd.distiller.registry import check_options
from recbole_kd.errors import ConfigError, TeacherError
from recbole_kd.losses.decoupled import binary_divergence, decoupled_divergence, positive_shares
from recbole_kd.ops.ragged import Ragged
from recbole_kd.pipeline.quick_start import make_teachers
from recbole_kd.pipeline.request import make_request
from recbole_kd.pipeline.training_entries import settings_of
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.teacher.convert import write_dense
from recbole_kd.teacher.export import export_teacher
from recbole_kd.teacher.load import load_teacher
from recbole_kd.teacher.modalities import modalities_of
from tests.support import paths
from tests.support.helpers import TinyData, write_tiny
from tests.support.multimodal import FEATURES, SMALL, command, featured
from tests.support.runs import results
from tests.support.stubs import TableScorer, dense, padded

REFERENCE = json.loads((paths.REFERENCE / "promptmm.json").read_text())


# -- losses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", REFERENCE["cases"])
def test_the_decoupled_loss_and_its_gradient_are_the_published(case: dict[str, Any]) -> None:
    student, teacher = torch.tensor(case["student"], requires_grad=True), torch.tensor(case["teacher"])
    target, rest = decoupled_divergence(
        student, teacher, torch.ones_like(teacher, dtype=torch.bool), case["temperature"]
    )
    loss = (case["alpha"] * target + case["beta"] * rest).mean()
    assert float(loss.detach()) == pytest.approx(case["loss"], rel=1e-5, abs=1e-5)
    loss.backward()
    assert student.grad is not None
    assert torch.allclose(student.grad, torch.tensor(case["gradient"]), rtol=1e-4, atol=1e-5)


def test_the_divergence_of_pairs_belongs_to_the_published_probabilities() -> None:
    pairs = REFERENCE["pairs"]
    margins = []
    for side in ("student", "teacher"):
        user, positive, negative = (torch.tensor(vectors) for vectors in pairs[side])
        margins.append((user * (positive - negative)).sum(dim=1))
        assert torch.allclose(
            -torch.nn.functional.logsigmoid(margins[-1]), torch.tensor(pairs[f"{side}_bpr"]), atol=1e-5
        )
    assert torch.allclose(binary_divergence(*margins), torch.tensor(pairs["divergence"]), atol=1e-5)


def test_decoupling_adds_up_to_the_whole_divergence() -> None:
    """KL = TCKD + (1 - p0) NCKD, the identity that gives the method its name."""
    generator = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(8, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    target, rest = decoupled_divergence(student, teacher, torch.ones(8, 6, dtype=torch.bool))
    p = torch.softmax(teacher, dim=1)
    whole = (p * (torch.log_softmax(teacher, 1) - torch.log_softmax(student, 1))).sum(dim=1)
    assert torch.allclose(target + (1 - p[:, 0]) * rest, whole)


def test_columns_that_do_not_count_do_not() -> None:
    generator = torch.Generator().manual_seed(2)
    student, teacher = torch.randn(3, 5, generator=generator), torch.randn(3, 5, generator=generator)
    valid = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 0, 1, 0]], dtype=torch.bool)
    student.requires_grad_()
    target, rest = decoupled_divergence(student, teacher, valid)
    short = decoupled_divergence(student[:1, :3], teacher[:1, :3], torch.ones(1, 3, dtype=torch.bool))
    assert torch.allclose(torch.stack([target[0], rest[0]]), torch.cat(short))
    assert target[1] == 0 and rest[1] == 0
    (target + rest).sum().backward()
    assert student.grad is not None and torch.isfinite(student.grad).all() and (student.grad[~valid] == 0).all()


def test_the_pair_loss_pulls_the_students_margin_towards_the_teachers() -> None:
    """The published form pushes it away; at the teacher's margin there is nothing left to learn."""
    student = torch.tensor([-1.0, 0.5, 3.0], requires_grad=True)
    loss = binary_divergence(student, torch.full((3,), 0.5))
    loss.sum().backward()
    assert student.grad is not None
    assert float(student.grad[0]) < 0 and abs(float(student.grad[1])) < 1e-7 and float(student.grad[2]) > 0
    assert float(loss[1].detach()) == pytest.approx(0, abs=1e-7)


def test_shares_are_of_the_probability_of_the_positive() -> None:
    scores = torch.tensor([[[2.0, 0.0, 5.0]], [[0.0, 0.0, 9.0]]])
    valid = torch.tensor([[True, True, False]])
    p = [torch.softmax(row[0, :2], 0)[0] for row in scores]
    assert torch.allclose(positive_shares(scores, valid)[:, 0], torch.stack(p) / sum(p))


# -- rows
# ----------------------------------------------------------------------------------------------------------------


def scores_of(seed: int) -> Tensor:
    return torch.randn(4, 9, generator=torch.Generator().manual_seed(seed))


def made(**options: Any) -> tuple[PromptMM, TableScorer]:
    scorer, teacher = TableScorer(padded(scores_of(0))), dense(scores_of(1))
    teacher.modalities = {"visual": dense(scores_of(2)), "text": dense(scores_of(3))}
    distiller = PromptMM(scorer, teacher, n_negatives=3, **options)  # type: ignore[arg-type]
    distiller.reduction = "sum"
    distiller.begin_training(Ragged.from_pairs(np.array([1, 1, 2, 3]), np.array([1, 2, 3, 4]), 5))
    distiller.begin_epoch(0)
    return distiller, scorer


def batch(negatives: Tensor | None = None) -> DistillBatch:
    rows, positives = torch.tensor([1, 1, 2]), torch.tensor([1, 2, 3])
    return DistillBatch(torch.tensor([1, 2]), torch.tensor([2.0, 1.0]), {}, positives, negatives, rows)


def by_hand(distiller: PromptMM, scorer: TableScorer, negatives: Tensor) -> Tensor:
    """The loss row by row, by the definitions."""
    teacher = distiller.teacher_scores
    total = torch.tensor(0.0)
    for row, (user, positive) in enumerate(zip([1, 1, 2], [1, 2, 3], strict=True)):
        items = [positive, *distiller.item_sets["negatives"][user].tolist()]

        def dkd(target: Tensor, items: list[int] = items, user: int = user) -> Tensor:
            p, q = torch.softmax(target[user, items], 0), torch.softmax(scorer.table[user, items], 0)
            pn, qn = p[1:] / p[1:].sum(), q[1:] / q[1:].sum()
            bits = (1 - p[0]) * ((1 - p[0]) / (1 - q[0])).log() + p[0] * (p[0] / q[0]).log()
            return 100 * bits + (pn * (pn / qn).log()).sum()

        tables = [teacher.modalities[name].full(torch.arange(5)) for name in ("visual", "text")]
        shares = torch.stack([torch.softmax(table[user, items], 0)[0] for table in tables])
        own = teacher.full(torch.arange(5))
        b = [torch.sigmoid(t[user, positive] - t[user, negatives[row]]) for t in (own, scorer.table)]
        pair = b[0] * (b[0] / b[1]).log() + (1 - b[0]) * ((1 - b[0]) / (1 - b[1])).log()
        total = total + dkd(own) + sum(w * dkd(t) for w, t in zip(shares / shares.sum(), tables, strict=True)) + pair
    return total


def test_the_loss_is_the_sum_of_its_terms_over_the_rows() -> None:
    distiller, scorer = made()
    negatives = torch.tensor([5, 6, 7])
    assert float(distiller(batch(negatives)).detach()) == pytest.approx(
        float(by_hand(distiller, scorer, negatives).detach()), rel=1e-4
    )
    twice = float(distiller(batch(torch.tensor([5, 6, 7, 5, 6, 7]))).detach())
    assert twice == pytest.approx(float(distiller(batch(negatives)).detach()), rel=1e-6)
    distiller.reduction = "mean"
    assert float(distiller(batch(negatives)).detach()) == pytest.approx(twice / 3, rel=1e-5)


def test_every_epoch_draws_negatives_anew_and_asks_the_modalities_about_them() -> None:
    distiller, scorer = made()
    drawn, positives = [distiller.item_sets["negatives"].clone()], [distiller._drawn_positive.clone()]
    for epoch in range(1, 6):
        distiller.begin_epoch(epoch)
        drawn.append(distiller.item_sets["negatives"].clone())
        positives.append(distiller._drawn_positive.clone())
        negatives = torch.tensor([5, 6, 7])
        assert float(distiller(batch(negatives)).detach()) == pytest.approx(
            float(by_hand(distiller, scorer, negatives).detach()), rel=1e-4
        )
    for before, after in pairwise(drawn):
        assert {tuple(sorted(row)) for row in before[1:4].tolist()} != {
            tuple(sorted(row)) for row in after[1:4].tolist()
        }
    assert len({tuple(row.tolist()) for row in positives}) > 1


def test_terms_can_be_switched_off_and_modalities_weighed_equally() -> None:
    parts = []
    for keys in (("pair_weight",), ("list_weight",), ("modality_weight",), ()):
        weights = {name: float(name in keys or not keys) for name in ("pair_weight", "list_weight", "modality_weight")}
        parts.append(float(made(**weights)[0](batch(torch.tensor([5, 6, 7]))).detach()))
    assert sum(parts[:3]) == pytest.approx(parts[3], rel=1e-5)
    equal, positive = (
        float(made(reweight=way)[0](batch(torch.tensor([5, 6, 7]))).detach()) for way in ("equal", "positive")
    )
    assert equal != positive


def test_a_loader_without_positives_brings_queries_with_drawn_ones() -> None:
    distiller, _ = made()
    queries = DistillBatch(torch.tensor([1, 2]), torch.tensor([2.0, 1.0]))
    assert torch.isfinite(distiller(queries))
    train = Ragged.from_pairs(np.array([1, 1, 2, 3]), np.array([1, 2, 3, 4]), 5)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([_one_of(train, generator) for _ in range(40)])
    assert [sorted(set(column.tolist())) for column in drawn.T] == [[0], [1, 2], [3], [4], [0]]


def test_a_teacher_without_modalities_is_refused() -> None:
    with pytest.raises(TeacherError, match="PromptMM needs scores of the teacher's modalities and Table has none"):
        PromptMM(TableScorer(padded(scores_of(0))), dense(scores_of(1)))  # type: ignore[arg-type]


def test_options_out_of_range_are_refused() -> None:
    fine = {
        "n_negatives": 3,
        "temperature": 1.0,
        **dict.fromkeys(("alpha", "beta", "pair_weight", "list_weight", "modality_weight"), 1.0),
    }
    check_options(PromptMM, fine, 4, 9)
    for wrong in (
        {"n_negatives": 0},
        {"n_negatives": 10},
        {"temperature": 0.0},
        {"alpha": -1.0},
        {"pair_weight": float("nan")},
    ):
        with pytest.raises(ConfigError, match=f"^Invalid --kd_{next(iter(wrong))}="):
            check_options(PromptMM, {**fine, **wrong}, 4, 9)


# -- stores
# --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("store", "dtype"),
    [("factors", "fp32"), ("factors", "fp16"), ("dense", "fp32"), ("online", "fp32"), ("converted", "fp32")],
)
def test_every_store_carries_the_scores_of_the_modalities(store: str, dtype: str, tmp_path: Path) -> None:
    case = featured(write_tiny(tmp_path, "own"))
    record_features(case.config, case.splits.dataset)
    settings = settings_of(case.config)
    assert set(settings["item_feature_digests"]) == {"visual", "text"}
    manifest = {"model": "BM3", "dataset": "own", "settings": settings, "data": case.splits.fingerprint}
    folder = tmp_path / "teacher"
    export_teacher(Scorer(case.model), folder, manifest, "factors" if store == "converted" else store, dtype)
    if store == "converted":
        write_dense(load_teacher(folder, case.splits.parts[0]), tmp_path / "dense")
        folder = tmp_path / "dense"
    teacher = load_teacher(folder, case.splits.parts[0])
    users, own = torch.arange(1, 8), modalities_of(case.model)
    assert list(teacher.modalities) == ["text", "visual"] == list(own)
    for name, scores in teacher.modalities.items():
        assert torch.allclose(scores.full(users), own[name].full(users), atol=1e-5 if dtype == "fp32" else 1e-2)
    if store == "factors":
        (folder / "modalities.safetensors").write_bytes(b"\x00" * 20)
        with pytest.raises(TeacherError, match=r"is damaged: modalities\.safetensors has"):
            load_teacher(folder, case.splits.parts[0])


def test_a_model_without_modalities_leaves_no_file(tiny_dataset: TinyData, tmp_path: Path) -> None:
    from tests.support.helpers import build_case

    export_teacher(Scorer(build_case(tiny_dataset, "MF").model), tmp_path / "mf", {"model": "MF"})
    assert not (tmp_path / "mf" / "modalities.safetensors").exists()
    assert (
        load_teacher(
            tmp_path / "mf", SimpleNamespace(_dataset=build_case(tiny_dataset, "MF").splits.parts[0])
        ).modalities
        == {}
    )


# -- the public command ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("student", ["MF", "LightGCN"])
@pytest.mark.parametrize("kd", SMALL)
def test_bm3_teaches_by_the_methods_of_the_papers_table(kd: str, student: str, tmp_path: Path) -> None:
    assert main(command(tmp_path, kd=kd, model=student, kd_compare="False")) == 0
    result = results(tmp_path)[-1]
    assert (
        result["teacher_model"] == "BM3"
        and set(result["item_features"]) == {"visual", "text"}
        and result["text_encoder"] is None
    )
    assert all(np.isfinite(result["distilled"]["kd_loss"])) and result["distilled"]["kd_loss"][-1] > 0


def test_the_same_teacher_serves_every_method_and_other_features_make_another(tmp_path: Path) -> None:
    """A student that reads no features is the same whatever they are."""
    cached = []
    for kd in ("RCEKD", "PromptMM"):
        assert main(command(tmp_path, kd=kd)) == 0
        cached.append((results(tmp_path)[-1]["teacher"]["cached"], results(tmp_path)[-1]["student"]["cached"]))
    path = tmp_path / "data" / "tiny" / "text.npy"
    np.save(path, np.load(path) + 1)
    assert main(command(tmp_path, kd="PromptMM")) == 0
    cached.append((results(tmp_path)[-1]["teacher"]["cached"], results(tmp_path)[-1]["student"]["cached"]))
    assert cached == [(False, False), (True, True), (False, True)]


def test_a_teacher_made_beforehand_is_the_one_that_a_run_takes(tmp_path: Path) -> None:
    request = make_request(
        merge_sources(None, None, parse_arguments(command(tmp_path, kd="PromptMM", kd_compare="False")))
    )
    folders = make_teachers(request)
    assert main(command(tmp_path, kd="PromptMM", kd_compare="False")) == 0
    assert results(tmp_path)[-1]["teacher"]["cached"] and results(tmp_path)[-1]["teacher"]["path"] == str(folders[0])


@pytest.mark.parametrize(
    ("changes", "more", "said"),
    [
        (
            {"teacher": "LightGCN", "kd": "PromptMM"},
            [],
            "--kd=PromptMM needs scores of the teacher's modalities and LightGCN has none",
        ),
        ({}, ["--item_features={visual: gone.npy}"], "The visual features gone.npy do not exist"),
        ({}, ["--item_features=visual.npy"], "Invalid --item_features=visual.npy: expected a mapping"),
        ({}, ["--text_encoder=bert", "--item_features=~"], "text_encoder='bert' is not allowed"),
        ({}, ["--item_features=~"], "tiny.item does not exist to make them from"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_is_trained(
    changes: dict[str, str], more: list[str], said: str, tmp_path: Path, capsys: Any
) -> None:
    given = [word for word in command(tmp_path, **changes) if word != FEATURES or not more]
    assert main([*given, *more]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and said in error[0]
    assert not (tmp_path / "saved").exists() or not list((tmp_path / "saved").glob("*/result.json"))
