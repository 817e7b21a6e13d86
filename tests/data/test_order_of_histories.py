"""Another order of the same interactions is other data for a model of histories, and the same data for any other."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from recbole.quick_start import run_recbole

from recbole_kd.cli.run import main
from recbole_kd.data.split_and_loaders import split_data
from recbole_kd.errors import TeacherError
from recbole_kd.teacher.load import load_teacher
from tests.support.helpers import SEQUENTIAL, TinyData, build_config
from tests.support.runs import results

BY_TIME = "{split: {RS: [0.8, 0.1, 0.1]}, order: TO, group_by: user, mode: full}"
HELD_OUT = {"sequential": 2, "general": 4}
"""Of a user's 12 to 20 items, so many and no fewer are left as they are."""


def backwards(data: TinyData, folder: Path, held_out: int) -> TinyData:
    """The same rows with each user's times reversed, but for the last ones."""
    header, *rows = (Path(data.data_path) / data.name / f"{data.name}.inter").read_text().splitlines()
    lines = [row.split("\t") for row in rows]  # in the file's order still, which ids follow
    by_user: dict[str, list[list[str]]] = {}
    for line in lines:
        by_user.setdefault(line[0], []).append(line)
    for own in by_user.values():
        own.sort(key=lambda line: float(line[2]))
        moved = own[:-held_out]
        for line, time in zip(moved, [line[2] for line in reversed(moved)], strict=True):
            line[2] = time
    written = [header, *("\t".join(line) for line in lines)]
    (folder / data.name).mkdir(parents=True)
    (folder / data.name / f"{data.name}.inter").write_text("\n".join(written) + "\n", encoding="utf-8")
    return TinyData(str(folder), data.name)


def command(data: TinyData, folder: Path, *more: str, kd: str = "CE") -> list[str]:
    return [
        f"--data_path={data.data_path}", f"--dataset={data.name}", f"--cache_dir={folder}/cache",
        f"--output_dir={folder}/saved",
        "--epochs=1", "--show_progress=False", f"--kd={kd}", "--kd_k=3", "--topk=[2,5]", "--valid_metric=NDCG@5",
        "--load_col={inter: [user_id, item_id, timestamp]}", *more,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "teacher", "setting", "kept"),
    [
        ("MF", "SASRec", "sequential", "student"),
        ("SASRec", "MF", "sequential", "teacher"),
        ("MF", "HSTU", "general", "student"),
    ],
)
def test_only_models_of_histories_are_trained_again(
    tiny_dataset: TinyData, tmp_path: Path, model: str, teacher: str, setting: str, kept: str
) -> None:
    more = [f"--model={model}", f"--teacher={teacher}", "--teacher.epochs=1", f"--setting={setting}"]
    more += [f"--eval_args={BY_TIME}"] if setting == "general" else []
    other = backwards(tiny_dataset, tmp_path / "other", HELD_OUT[setting])
    assert main(command(tiny_dataset, tmp_path, *more)) == 0
    assert main(command(other, tmp_path, *more)) == 0
    cached = {part: results(tmp_path)[-1][part]["cached"] for part in ("teacher", "student")}
    assert cached == {part: part == kept for part in ("teacher", "student")}
    assert main(command(other, tmp_path, *more)) == 0
    assert all(results(tmp_path)[-1][part]["cached"] for part in ("teacher", "student"))


def test_a_teacher_of_other_histories_is_refused(tiny_dataset: TinyData, tmp_path: Path) -> None:
    assert (
        main(
            command(
                tiny_dataset, tmp_path, "--model=MF", "--teacher=SASRec", "--teacher.epochs=1", "--setting=sequential"
            )
        )
        == 0
    )
    folder = results(tmp_path)[-1]["teacher"]["path"]
    other = backwards(tiny_dataset, tmp_path / "other", 2)
    load_teacher(folder, split_data(build_config(tiny_dataset, "MF", **SEQUENTIAL)).parts[0])
    with pytest.raises(TeacherError, match=r"its histories are .*the times of the interactions"):
        load_teacher(folder, split_data(build_config(other, "MF", **SEQUENTIAL)).parts[0])


@pytest.mark.parametrize("teachers", ["MF,SASRec", "SASRec,MF", "SASRec,HSTU"])
def test_a_general_student_of_several_teachers(tiny_dataset: TinyData, tmp_path: Path, teachers: str) -> None:
    more = ["--kd_n_checkpoints=2", "--kd_compare=False", "--teacher.epochs=2"]
    assert (
        main(
            command(
                tiny_dataset,
                tmp_path,
                "--model=MF",
                f"--teacher={teachers}",
                "--setting=sequential",
                *more,
                kd="HetComp",
            )
        )
        == 0
    )
    assert [member["model"] for member in results(tmp_path)[-1]["teacher"]["members"]] == teachers.split(",")


@pytest.fixture(scope="module")
def checkpoint(tiny_dataset: TinyData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SASRec as RecBole's own training leaves it, histories of up to 50 items."""
    folder = tmp_path_factory.mktemp("recbole")
    given: dict[str, Any] = {
        "data_path": tiny_dataset.data_path, "epochs": 1, "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "train_neg_sample_args": None, "eval_args": SEQUENTIAL["eval_args"], "hidden_size": 8, "inner_size": 8,
        "checkpoint_dir": str(folder), "topk": [2, 5], "valid_metric": "NDCG@5", "state": "ERROR",
        "show_progress": False,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["test"])
        run_recbole(model="SASRec", dataset=tiny_dataset.name, config_dict=given)
    (file,) = folder.glob("SASRec-*.pth")
    return file


@pytest.mark.parametrize(
    "more", [("--model=SASRec",), ("--model=MF",), ("--model=SASRec", "--MAX_ITEM_LIST_LENGTH=20"), ("--model=HSTU",)]
)
def test_recboles_sequential_checkpoint_teaches_any_student(
    tiny_dataset: TinyData, tmp_path: Path, checkpoint: Path, more: tuple[str, ...]
) -> None:
    alone = "--kd_compare=False"
    assert (
        main(command(tiny_dataset, tmp_path, f"--teacher_path={checkpoint}", "--setting=sequential", alone, *more)) == 0
    )
    assert results(tmp_path)[-1]["teacher_model"] == "SASRec"


def test_a_checkpoint_of_another_split_is_refused(
    tiny_dataset: TinyData, tmp_path: Path, checkpoint: Path, capsys: Any
) -> None:
    more = ("--model=MF", "--kd_compare=False", f"--eval_args={BY_TIME}")
    assert main(command(tiny_dataset, tmp_path, f"--teacher_path={checkpoint}", *more)) == 2
    assert re.search("eval_args.*its ids or its split differ", capsys.readouterr().err)


@pytest.mark.parametrize(("gap", "order", "same"), [(1, "recbole", False), (1000, "recbole", True), (1, "exact", True)])
def test_times_that_float32_cannot_tell_apart(gap: int, order: str, same: bool, tmp_path: Path) -> None:
    """In RecBole's order, in which seconds 128 apart are one, the file decides; in the exact one it does not."""
    rows = [f"u{user}\ti{item}\t{1_400_000_000 + gap * ((item + user) % 6)}" for user in range(6) for item in range(6)]
    found = []
    for name, written in (("forth", rows), ("back", [*rows[:30], *reversed(rows[30:])])):
        folder = tmp_path / name / "near"
        folder.mkdir(parents=True)
        (folder / "near.inter").write_text(
            "\n".join(["user_id:token\titem_id:token\ttimestamp:float", *written]) + "\n"
        )
        config = build_config(TinyData(str(tmp_path / name), "near"), "MF", **SEQUENTIAL, time_order=order)
        found.append(split_data(config).fingerprint)
    assert (found[0]["histories"] == found[1]["histories"]) == same
    assert found[0]["interactions"] == found[1]["interactions"]
