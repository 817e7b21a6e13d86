"""Truncated SVD of teachers: against numpy's, what is kept, what is refused, whole runs."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from recbole_kd.errors import ConfigError
from recbole_kd.ops import topk
from recbole_kd.storage.files import FORMAT, SCORES, read_manifest, read_tensors, write_json, write_manifest
from recbole_kd.teacher import convert
from recbole_kd.teacher import truncated_svd as truncated
from recbole_kd.teacher.convert import write_truncated
from recbole_kd.teacher.export import scores_from
from recbole_kd.teacher.stores.dense import DenseScores
from recbole_kd.teacher.stores.factors import FactorScores
from tests.support import paths
from tests.support.runs import refusal, run


def vectors(n_queries: int = 60, n_items: int = 90, d: int = 24, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Tables with falling singular values; the pads stand out."""
    generator = torch.Generator().manual_seed(seed)
    fall = 0.8 ** torch.arange(d)
    tables = [torch.randn(n, d, generator=generator) * fall for n in (n_queries, n_items)]
    for table in tables:
        table[0] = 50.0
    return tables[0], tables[1]


def best(scores: Tensor, width: int) -> Tensor:
    """The nearest matrix of this rank, in float64."""
    left, values, right = torch.linalg.svd(scores.double(), full_matrices=False)
    return (left[:, :width] * values[:width] @ right[:width]).float()


@pytest.mark.parametrize("width", [1, 5, 16])
@pytest.mark.parametrize("dense", [False, True])
def test_it_is_the_nearest_of_its_rank(width: int, dense: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, items = vectors()
    scores = queries @ items.T
    monkeypatch.setattr(truncated, "ROWS", 7)
    monkeypatch.setattr(topk, "BLOCK_BYTES", 4 * 90 * 11)
    q, v, energy = truncated.truncated(DenseScores(scores) if dense else FactorScores(queries, items), width)
    assert q.shape == (60, width) and v.shape == (90, width) and q.dtype == v.dtype == torch.float32
    inner = scores[1:, 1:]
    torch.testing.assert_close((q @ v.T)[1:, 1:], best(inner, width), rtol=1e-3, atol=2e-3 * float(inner.abs().max()))
    singular = torch.linalg.svdvals(inner.double()).square()
    assert energy == pytest.approx(float(singular[:width].sum() / singular.sum()), rel=1e-4)


def test_vectors_of_lower_rank_than_they_are_wide() -> None:
    queries, items = vectors(d=6)
    wide = [torch.cat([table, table, torch.zeros_like(table)], dim=1) for table in (queries, items)]
    q, v, energy = truncated.truncated(FactorScores(*wide), 6)
    torch.testing.assert_close((q @ v.T)[1:, 1:], 2 * (queries @ items.T)[1:, 1:], rtol=1e-3, atol=1e-3)
    assert energy == pytest.approx(1.0)


def test_more_width_keeps_more_and_the_figures_say_what(tmp_path: Path) -> None:
    queries, items = vectors()
    manifest = {"model": "Made", "format": FORMAT, "store": "factors", "n_queries": 60, "n_items": 90, "dtype": "fp32"}
    teacher = FactorScores(queries, items, manifest)
    overlaps = []
    for width in (1, 4, 12, 20):
        write_truncated(teacher, tmp_path / str(width), width)
        kept = read_manifest(tmp_path / str(width))
        stored = scores_from(read_tensors(tmp_path / str(width) / SCORES), kept)
        exact, own = (t.top_k(torch.arange(1, 60), 50)[0] for t in (teacher, stored))
        share = sum(len(set(a) & set(b)) for a, b in zip(exact.tolist(), own.tolist(), strict=True)) / exact.numel()
        assert (
            kept["fidelity"]["top_k_overlap"] == pytest.approx(share)
            and kept["svd"] == width
            and kept["model"] == "Made"
        )
        overlaps.append(share)
    assert overlaps == sorted(overlaps) and overlaps[0] < 0.9 < overlaps[-1]


def test_fp16_truncated_factors_take_half_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "FIDELITY_QUERIES", 7)
    teacher = FactorScores(
        *vectors(n_queries=600), {"model": "Made", "format": FORMAT, "n_queries": 600, "n_items": 90}
    )
    for dtype in ("fp32", "fp16"):
        write_truncated(teacher, tmp_path / dtype, 8, dtype)
    small, large = (read_tensors(tmp_path / dtype / SCORES) for dtype in ("fp16", "fp32"))
    assert {t.dtype for t in small.values()} == {torch.float16}
    torch.testing.assert_close(small["item_vectors"].float(), large["item_vectors"], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("width", [0, 24, 100])
def test_a_width_that_truncates_nothing_is_refused(width: int) -> None:
    with pytest.raises(ConfigError, match=f"teacher_svd={width} .* 1 to 23"):
        truncated.truncated(FactorScores(*vectors()), width)


# -- whole runs
# -----------------------------------------------------------------------------------------------------------


def test_a_run_keeps_its_teacher_truncated(tmp_path: Path) -> None:
    whole = run(tmp_path, "--kd_compare=False")
    small = run(tmp_path, "--kd_compare=False", "--teacher_svd=3")
    assert small["teacher"]["cached"] and small["teacher"]["test"] == whole["teacher"]["test"], (
        "made of the same teacher"
    )
    fidelity = small["teacher"]["fidelity"]
    assert 0 < fidelity["energy"] < 1 and 0 < fidelity["top_k_overlap"] <= 1
    assert "keeps" in (small["folder"] / "run.log").read_text()
    assert small["distilled"]["kd_loss"] != whole["distilled"]["kd_loss"]
    stored = read_tensors(Path(small["teacher"]["path"]) / SCORES)
    assert {t.shape[1] for t in stored.values()} == {3}
    for entry in (tmp_path / "cache" / "teacher").iterdir():
        if str(entry) != small["teacher"]["path"]:
            shutil.rmtree(entry, ignore_errors=True)
    again = run(tmp_path, "--kd_compare=False", "--teacher_svd=3")
    assert again["teacher"]["cached"] and not Path(whole["teacher"]["path"]).exists(), (
        "a truncated teacher needs no whole one"
    )
    assert (
        again["teacher"]["path"] == small["teacher"]["path"]
        and again["distilled"]["kd_loss"] == small["distilled"]["kd_loss"]
    )


def test_a_dense_teacher_becomes_factors(tmp_path: Path) -> None:
    found = run(
        tmp_path,
        "--kd_compare=False",
        "--teacher_svd=5",
        teacher="EASE",
        **{"teacher.embedding_size": None, "teacher.epochs": None},
    )
    assert (
        read_manifest(Path(found["teacher"]["path"]))["store"] == "factors"
        and found["teacher"]["fidelity"]["energy"] > 0.5
    )


REFUSED: dict[str, tuple[dict[str, str | None], list[str], list[str]]] = {
    "zero": ({}, ["--teacher_svd=0"], ["teacher_svd=0"]),
    "word": ({}, ["--teacher_svd=x"], ["teacher_svd"]),
    "online": ({}, ["--teacher_svd=3", "--teacher_store=online"], ["teacher_svd=3", "LightGCN", "online"]),
    "trajectory": (
        {"kd": "HetComp", "kd_n_samples": None, "kd_candidates": None, "kd_k": None},
        ["--teacher_svd=3"],
        ["kd=HetComp"],
    ),
    "saved": (
        {"teacher": None, "teacher_path": "here", "teacher.epochs": None, "teacher.embedding_size": None},
        ["--teacher_svd=3"],
        ["convert-teacher", "--svd=3"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_in_a_sentence(name: str, tmp_path: Path, capsys: Any) -> None:
    changes, more, named = REFUSED[name]
    said = refusal(capsys, tmp_path, *more, **changes)
    assert all(word in said for word in named)


# -- the script
# -----------------------------------------------------------------------------------------------------------


def script() -> ModuleType:
    path = paths.ROOT / "scripts" / "convert_teacher.py"
    spec = importlib.util.spec_from_file_location("convert_teacher", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_other_scores(folder: Path) -> None:
    """Double a teacher's item vectors, as another training with the same settings could have left them."""
    tensors, manifest = read_tensors(folder / SCORES), read_manifest(folder)
    save_file({**tensors, "item_vectors": 2 * tensors["item_vectors"]}, folder / SCORES)
    write_manifest(folder, manifest)


def test_a_saved_teacher_is_converted_and_taken_by_a_run(tmp_path: Path, capsys: Any) -> None:
    whole = run(tmp_path, "--kd_compare=False")
    convert_main, source = script().main, whole["teacher"]["path"]
    capsys.readouterr()
    assert convert_main([source, f"--out={tmp_path / 'small'}", "--svd=3"]) == 0
    assert "top_k_overlap" in capsys.readouterr().out
    assert convert_main([source, f"--out={tmp_path / 'dense'}", "--dense", "--dtype=fp16"]) == 0
    assert read_manifest(tmp_path / "dense")["store"] == "dense"
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("[sd]*/*.*")}
    for how, code in {"--dense --dtype=fp16": 0, "--dense": 2, "--svd=3": 2}.items():  # as after a kill at its very end
        assert convert_main([source, f"--out={tmp_path / 'dense'}", *how.split()]) == code
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("[sd]*/*.*")}
    assert "is kept" in capsys.readouterr().out
    other = shutil.copytree(source, tmp_path / "other")  # the same manifest, and other scores
    write_other_scores(other)
    assert convert_main([str(other), f"--out={tmp_path / 'dense'}", "--dense", "--dtype=fp16"]) == 2
    saved: dict[str, str | None] = {"teacher": None, "teacher.epochs": None, "teacher.embedding_size": None}
    from_saved = run(tmp_path, "--kd_compare=False", teacher_path=str(tmp_path / "small"), **saved)
    in_run = run(tmp_path, "--kd_compare=False", "--teacher_svd=3")
    assert from_saved["distilled"]["kd_loss"] == in_run["distilled"]["kd_loss"]


@pytest.mark.parametrize(
    "given", [["nowhere", "--out=x", "--svd=3"], ["nowhere", "--out=nowhere", "--svd=3"], ["nowhere"], ["x", "--out=y"]]
)
def test_the_script_refuses_in_a_sentence(given: list[str], capsys: Any) -> None:
    assert script().main(given) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and len(said.strip().splitlines()) == 1


def test_the_script_refuses_a_model(tmp_path: Path, capsys: Any) -> None:
    settings = {"model": "MF", "dataset": "x", "settings": {}}
    write_json(
        tmp_path / "online" / "manifest.json",
        {"format": FORMAT, "store": "online", "n_queries": 3, "n_items": 3, **settings},
    )
    assert script().main([str(tmp_path / "online"), f"--out={tmp_path / 'x'}", "--svd=3"]) == 2
    assert "no scores" in capsys.readouterr().err


def test_a_checkpoint_is_not_converted_and_the_way_is_said(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "LightGCN.pth").write_bytes(b"")
    assert script().main([str(tmp_path / "LightGCN.pth"), f"--out={tmp_path / 'small'}", "--svd=3"]) == 2
    said = capsys.readouterr().err
    assert "holds a model and no scores: give it as --teacher_path" in said and "--teacher=NAME" in said
