"""The two public layouts of multi-modal data, from raw files to a distilled student."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_kd.cli.run import main
from recbole_kd.data.preparing.prepare import prepare
from recbole_kd.data.preparing.raw_layouts import Options
from recbole_kd.errors import DataError
from scripts.prepare_dataset import main as prepare_main
from tests.support.atomic_files import rows_of

N_USERS, N_ITEMS = 12, 20


def write_features(folder: Path, n_items: int = N_ITEMS, **widths: int) -> None:
    rng = np.random.default_rng(0)
    for name, width in (widths or {"image_feat": 6, "text_feat": 4}).items():
        np.save(folder / f"{name}.npy", rng.normal(size=(n_items, width)))  # float64, as published


def histories() -> list[list[int]]:
    """Items of each user, in an order of their own."""
    return [[(user + step * 3) % N_ITEMS for step in range(8)] for user in range(N_USERS)]


def write_json(folder: Path, **widths: int) -> Path:
    folder.mkdir(exist_ok=True)
    cuts = {"train.json": slice(0, 6), "val.json": slice(6, 7), "test.json": slice(7, 8)}
    for name, cut in cuts.items():
        (folder / name).write_text(json.dumps({str(user): items[cut] for user, items in enumerate(histories())}))
    write_features(folder, **widths)
    return folder


def write_labelled(folder: Path, name: str = "baby") -> Path:
    folder.mkdir(exist_ok=True)
    lines = ["userID\titemID\trating\ttimestamp\tx_label"]
    for user, items in enumerate(histories()):
        lines += [f"{user}\t{item}\t5.0\t{1000 + step}\t{max(0, step - 5)}" for step, item in enumerate(items)]
    (folder / f"{name}.inter").write_text("\n".join(lines[:1] + lines[:0:-1]) + "\n")  # latest first
    write_features(folder)
    return folder


def test_json_files_become_a_benchmark_split_with_features(tmp_path: Path) -> None:
    raw = write_json(tmp_path / "raw", image_feat=6, text_feat=4, audio_feat=3)
    manifest = prepare("tiktok", Options(raw=raw), tmp_path / "out")
    folder = tmp_path / "out" / "tiktok"
    assert {part: count["interactions"] for part, count in manifest["counts"].items()} == {
        "all": 96,
        "train": 72,
        "valid": 12,
        "test": 12,
    }
    assert rows_of(folder / "tiktok.train.inter")[:3] == [
        ["user_id:token", "item_id:token", "timestamp:float"],
        ["0", "0", "0"],
        ["0", "3", "1"],
    ]
    assert rows_of(folder / "tiktok.test.inter")[1] == ["0", "1", "7"]
    assert rows_of(folder / "tiktok.valid.inter")[11][:2] == ["10", "8"]  # users by number, not by text
    for name, file, width in (("visual", "image_feat", 6), ("text", "text_feat", 4), ("audio", "audio_feat", 3)):
        written = np.load(folder / f"tiktok.{name}.npy")
        assert written.dtype == np.float32 and written.shape == (N_ITEMS, width)
        assert np.allclose(written, np.load(raw / f"{file}.npy"), atol=1e-6)
    assert set(manifest["sources"]) == {
        "train.json",
        "val.json",
        "test.json",
        "image_feat.npy",
        "text_feat.npy",
        "audio_feat.npy",
    }


def test_a_row_that_comes_again_in_a_later_part_is_left_out_and_counted(tmp_path: Path) -> None:
    raw = write_json(tmp_path / "raw")
    (raw / "test.json").write_text(json.dumps({"0": [0, 1, 1], "99": [4]}))
    manifest = prepare("tiktok", Options(raw=raw), tmp_path / "out")
    assert manifest["settings"] == {"repeats_left_out": 2}
    assert rows_of(tmp_path / "out" / "tiktok" / "tiktok.test.inter")[1:] == [["0", "1", "7"], ["99", "4", "0"]]


def test_a_table_with_labels_becomes_the_same_split(tmp_path: Path) -> None:
    prepare("baby", Options(raw=write_labelled(tmp_path / "table")), tmp_path / "out")
    prepare("tiktok", Options(raw=write_json(tmp_path / "json")), tmp_path / "out")
    for part in ("train", "valid", "test"):
        table = sorted(row[:2] for row in rows_of(tmp_path / "out" / "baby" / f"baby.{part}.inter")[1:])
        assert table == sorted(row[:2] for row in rows_of(tmp_path / "out" / "tiktok" / f"tiktok.{part}.inter")[1:])
    assert [row[2] for row in rows_of(tmp_path / "out" / "baby" / "baby.train.inter")[1:7]] == [
        "1000",
        "1001",
        "1002",
        "1003",
        "1004",
        "1005",
    ]


def test_gzipped_json_is_read_as_it_stands(tmp_path: Path) -> None:
    plain, packed = write_json(tmp_path / "plain"), write_json(tmp_path / "packed")
    for name in ("train.json", "val.json", "test.json"):
        (packed / f"{name}.gz").write_bytes(gzip.compress((packed / name).read_bytes()))
        (packed / name).unlink()
    files = [prepare("tiktok", Options(raw=raw), tmp_path / f"out-{raw.name}")["files"] for raw in (plain, packed)]
    assert files[0] == files[1]
    (packed / "val.json.gz").write_bytes((packed / "val.json.gz").read_bytes()[:-12])
    with pytest.raises(DataError, match=r"val\.json\.gz is not JSON"):
        prepare("tiktok", Options(raw=packed), tmp_path / "again")


def change(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)


TABLE = "userID\titemID\tx_label\n"
BAD: dict[str, tuple[str, Any, str]] = {
    "no json": ("tiktok", lambda f: change(f, "val.json", "{"), r"val\.json is not JSON"),
    "a list": ("tiktok", lambda f: change(f, "val.json", "[]"), r"val\.json must be a JSON object"),
    "no items": (
        "tiktok",
        lambda f: change(f, "test.json", '{"3": [1, 2.5]}'),
        r"test\.json: the items of user '3' are not a list",
    ),
    "missing": ("tiktok", lambda f: (f / "test.json").unlink(), r"test\.json \(or test\.json\.gz\) is not in"),
    "no features": (
        "tiktok",
        lambda f: [(f / n).unlink() for n in ("image_feat.npy", "text_feat.npy")],
        "has no features",
    ),
    "few rows": (
        "tiktok",
        lambda f: write_features(f, 19),
        "The visual features have 19 rows, but item '19' needs row 19",
    ),
    "nan": (
        "tiktok",
        lambda f: np.save(f / "text_feat.npy", np.full((20, 2), np.nan)),
        r"The text features of item '0' \(row 0\) hold",
    ),
    "label": ("baby", lambda f: change(f, "baby.inter", TABLE + "0\t1\t3\n"), r"baby\.inter:2: x_label is '3'"),
    "column": (
        "baby",
        lambda f: change(f, "baby.inter", "userID\titemID\n0\t1\n"),
        r"has no column 'x_label': it has userID, itemID",
    ),
    "twice": (
        "baby",
        lambda f: change(f, "baby.inter", TABLE + "0\t1\t0\n0\t1\t2\n"),
        r"baby\.inter:3: item '1' of user '0' already has a row",
    ),
    "short": ("baby", lambda f: change(f, "baby.inter", TABLE + "0\t1\n"), r"baby\.inter:2: expected 3 columns"),
    "time": (
        "baby",
        lambda f: change(f, "baby.inter", TABLE.strip() + "\ttimestamp\n0\t1\t0\tx\n"),
        r"baby\.inter:2: the time 'x' is not a finite number",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said_with_file_and_place(name: str, tmp_path: Path) -> None:
    dataset, spoil, words = BAD[name]
    raw = write_json(tmp_path / "raw") if dataset == "tiktok" else write_labelled(tmp_path / "raw")
    spoil(raw)
    with pytest.raises(DataError, match=words):
        prepare(dataset, Options(raw=raw), tmp_path / "out")
    assert not (tmp_path / "out" / dataset).exists()


@pytest.mark.parametrize(("dataset", "kd"), [("netflix", "RCEKD"), ("electronics", "PromptMM"), ("baby", "PromptMM")])
def test_raw_files_go_through_preparation_training_and_distillation(dataset: str, kd: str, tmp_path: Path) -> None:
    """By the public commands, with the data set's own property file; netflix is read here and never downloaded."""
    raw = write_labelled(tmp_path / "raw", dataset) if dataset == "baby" else write_json(tmp_path / "raw")
    assert prepare_main([dataset, f"--raw={raw}", f"--out={tmp_path / 'data'}"]) == 0
    run = [
        "--model=MF", "--teacher=BM3", f"--kd={kd}", f"--dataset={dataset}", f"--data_path={tmp_path / 'data'}",
        "--topk=[5]", "--epochs=1",
        "--valid_metric=NDCG@5", "--teacher.epochs=1", "--teacher.embedding_size=8", "--show_progress=False",
        "--kd_compare=False",
        f"--output_dir={tmp_path / 'saved'}", f"--cache_dir={tmp_path / 'cache'}", "--state=WARNING",
        *(["--kd_k=5", "--kd_n_samples=5", "--kd_candidates=10"] if kd == "RCEKD" else ["--kd_n_negatives=4"]),
    ]  # fmt: skip
    assert main(run) == 0
    result = json.loads(next((tmp_path / "saved").glob("*/result.json")).read_text())
    assert set(result["item_features"]) == {"visual", "text"} and np.isfinite(result["distilled"]["kd_loss"]).all()


def test_netflix_is_never_downloaded(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """RecBole has another data set of this name to download."""
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    assert main(["--model=MF", "--teacher=BM3", "--kd=RCEKD", "--dataset=netflix", f"--data_path={tmp_path}"]) == 2
    said = capsys.readouterr().err
    assert "The data set netflix is not prepared in" in said and "recbole-kd prepare netflix" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model", ["BM3", "HSTU", "MF"])
def test_recboles_own_run_downloads_no_other_netflix_for_our_models(
    model: str, tmp_path: Path, monkeypatch: Any
) -> None:
    from recbole.quick_start import run_recbole

    monkeypatch.setattr(sys, "argv", ["test"])
    monkeypatch.setattr("recbole.data.dataset.dataset.download_url", lambda *_: pytest.fail("a download was begun"))
    monkeypatch.setattr("recbole.data.dataset.dataset.decide_download", lambda *_: True)
    with pytest.raises(
        DataError, match=r"The data set netflix is not prepared in .*netflix: run `recbole-kd prepare netflix"
    ):
        run_recbole(
            model=model, dataset="netflix", config_dict={"data_path": str(tmp_path), "state": "ERROR", "use_gpu": False}
        )
    assert list(tmp_path.iterdir()) == []


def test_recboles_own_models_may_have_recboles_netflix(tmp_path: Path, monkeypatch: Any) -> None:
    from recbole.quick_start import run_recbole

    def begun(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["test"])
    monkeypatch.setattr("recbole.data.dataset.dataset.decide_download", begun)
    with pytest.raises(KeyboardInterrupt):
        run_recbole(
            model="BPR", dataset="netflix", config_dict={"data_path": str(tmp_path), "state": "ERROR", "use_gpu": False}
        )
