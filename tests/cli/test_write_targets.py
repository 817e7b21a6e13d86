"""No command removes or overwrites what it did not make.

It is refused in one sentence, and every byte is still there.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from recbole_kd.cli import benchmark, tune
from recbole_kd.cli.boundary import answer
from recbole_kd.cli.run import main as run_main
from recbole_kd.errors import TargetError, TrainingError
from recbole_kd.experiments.grid import read_grid
from recbole_kd.pipeline import quick_start
from recbole_kd.storage.files import FORMAT, MANIFEST, SCORES, write_json, write_text_whole, written_whole
from recbole_kd.storage.targets import check_file, check_folder
from recbole_kd.teacher.ranked_lists import ABOUT, LISTS
from recbole_kd.training.trajectory import Trajectory
from tests.support import paths
from tests.support.made_results import made_up, write_grid
from tests.support.runs import run, words

SCRIPTS = paths.ROOT / "scripts"


def script(name: str) -> Any:
    """Return a module of scripts/."""
    sys.path.insert(0, str(SCRIPTS))
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def contents(folder: Path) -> dict[str, Any]:
    """Return each path below a folder with its bytes, its link's target, or None for a folder."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = f"-> {os.readlink(path)}" if path.is_symlink() else None if path.is_dir() else path.read_bytes()
    return found


# -- the functions
# ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", ["missing", "empty"])
def test_a_missing_and_an_empty_folder_are_written(there: str, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    if there == "empty":
        target.mkdir(parents=True)
    check_folder(target)
    with written_whole(target) as temporary:
        (temporary / "new").write_text("new")
    assert contents(tmp_path) == {"deep": None, "deep/target": None, "deep/target/new": b"new"}


def test_only_files_that_are_named_are_replaced(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "report.json").write_text("half")
    with written_whole(target, replaces=["report.json"]) as temporary:
        (temporary / "report.json").write_text("whole")
    assert contents(tmp_path) == {"target": None, "target/report.json": b"whole"}
    for name in ("notes.txt", "report.json/notes.txt"):
        (target / "report.json").unlink(missing_ok=True)
        (target / name).parent.mkdir(exist_ok=True)
        (target / name).write_text("mine")
        before = contents(tmp_path)
        with pytest.raises(TargetError, match="did not make"), written_whole(target, replaces=["report.json"]):
            raise AssertionError("nothing is computed for a folder that may not be written")
        assert contents(tmp_path) == before


def test_what_appears_while_a_folder_is_made_stays(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with pytest.raises(TargetError, match=r"holds notes\.txt"), written_whole(target) as temporary:
        (temporary / "new").write_text("new")
        target.mkdir()
        (target / "notes.txt").write_text("mine")
    assert contents(tmp_path) == {"target": None, "target/notes.txt": b"mine"}


def test_a_hidden_folder_of_the_temporary_name_stays(tmp_path: Path) -> None:
    hidden = tmp_path / f".target-{os.getpid()}"
    hidden.mkdir()
    (hidden / "notes.txt").write_text("mine")
    (tmp_path / f".file.json-{os.getpid()}").write_text("mine")
    with written_whole(tmp_path / "target") as temporary:
        assert temporary != hidden
    write_json(tmp_path / "file.json", {"a": 1})
    assert (hidden / "notes.txt").read_text() == "mine" and (
        tmp_path / f".file.json-{os.getpid()}"
    ).read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {
        hidden.name,
        f".file.json-{os.getpid()}",
        "target",
        "file.json",
    }


def test_the_current_folder_and_a_mount_point_are_refused_with_a_folder_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for place in (Path(), Path("..") / tmp_path.name, tmp_path):
        with pytest.raises(TargetError, match=r"--out=.*made\.$"):
            check_folder(place, option="--out")
    mount = tmp_path / "mount"
    mount.mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: str(path) == str(mount))
    with pytest.raises(TargetError, match="a mount point"):
        check_folder(mount, option="--out")


def test_a_source_is_never_inside_its_target_nor_around_it(tmp_path: Path) -> None:
    source = tmp_path / "a" / "source"
    source.mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for target in (
        source,
        tmp_path / "a",
        tmp_path,
        tmp_path / "link",
        source / "inside",
        tmp_path / "a" / "source" / ".." / "source",
    ):
        with pytest.raises(TargetError, match="which is read to make it"):
            check_folder(target, sources=[source])
    check_folder(tmp_path / "a" / "other", sources=[source])


def test_the_name_that_is_offered_is_free(tmp_path: Path) -> None:
    for name in ("x.json", "x-2.json"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(TargetError, match=rf"--output={tmp_path}/x-3\.json\.$"):
        check_file(tmp_path / "x.json", option="--output")


def test_a_text_takes_the_place_of_no_link_and_no_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to("mine")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    before = contents(tmp_path)
    for name in ("link", "dangling", "folder"):
        with pytest.raises(TargetError):
            write_text_whole(tmp_path / name, "new")
    assert contents(tmp_path) == before


# -- every command that writes
# ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """A target of a command.

    Attributes:
        path: what the command writes. is_folder: a folder, in which any other file is refused. source: what it reads,
            or None.
        argv, main: the command.
    """

    path: Path
    is_folder: bool
    argv: Sequence[str]
    main: Callable[[list[str]], int]
    source: Path | None = None


def teacher(folder: Path) -> Path:
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    tables = {name: torch.randn(n, 4, generator=generator) for name, n in (("query_vectors", 9), ("item_vectors", 80))}
    save_file(tables, folder / SCORES)
    write_json(folder / MANIFEST, {"format": FORMAT, "store": "factors", "n_queries": 9, "n_items": 80, "model": "MF"})
    return folder


def of_convert(home: Path, *how: str) -> Place:
    source = teacher(home / "saved" / "cache" / "teacher")
    return Place(
        home / "out", True, [str(source), f"--out={home / 'out'}", *how], script("convert_teacher").main, source
    )


def of_lists(home: Path) -> Place:
    source = teacher(home / "saved" / "cache" / "teacher")
    return Place(
        home / "out", True, [str(source), f"--out={home / 'out'}", "--k=3"], script("export_lists").main, source
    )


def of_prepare(home: Path) -> Place:
    raw = home / "raw" / "s.txt"
    raw.parent.mkdir()
    raw.write_text("a 1 2 3\nb 2 3\n")
    argv = ["out", f"--raw={raw.parent}", "--form=sequence", "--file=s.txt", f"--out={home}"]
    return Place(home / "out", True, argv, script("prepare_dataset").main)


def search_words(home: Path, tool: str, *more: str) -> list[str]:
    space = home / "space.yaml"
    space.write_text("kd_k: {choice: [3, 5]}\n")
    kept = [word for word in words(home, output_dir=str(home)) if not word.startswith("--kd_k=")]
    return [*kept, f"--tool={tool}", "--study=out", f"--params_file={space}", *more]


def of_study(home: Path, tool: str, *more: str) -> Place:
    return Place(home / "out", True, search_words(home, tool, *more), tune.main)


def of_search_file(home: Path, key: str) -> Place:
    return Place(home / "out", False, search_words(home, "Hyperopt", "--study=s", f"--{key}={home / 'out'}"), tune.main)


def grid_of_results(home: Path) -> Path:
    path = write_grid(home)
    task = read_grid(path).tasks[0]
    file = home / task.grid / task.file_name
    file.parent.mkdir()
    made = made_up(0.3, 0.1, 0.2)
    made["distilled"] = {**made["distilled"], "history": {}}
    file.write_text(json.dumps({**made, "settings": task.settings}))
    return path


def of_picture(home: Path) -> Place:
    path = grid_of_results(home)
    return Place(home / "tiny-grid.svg", False, [str(path), f"--results={home}"], script("plot_results").main)


def of_table(home: Path) -> Place:
    path = grid_of_results(home)
    return Place(home / "tiny-grid.md", False, [str(path), f"--results={home}", "--table"], script("reproduce").main)


def of_result(home: Path) -> Place:
    path = grid_of_results(home)
    file = next((home / "tiny-grid").glob("*.json"))
    file.unlink()
    return Place(file, False, [str(path), f"--results={home}", "--table"], script("reproduce").main)


def of_benchmark(home: Path) -> Place:
    def main(argv: list[str]) -> int:
        return answer(lambda words: 0 if benchmark.parse(words) else 1, argv)

    return Place(home / "out", False, [f"--output={home / 'out'}"], main)


COMMANDS: dict[str, Callable[[Path], Place]] = {
    "convert --svd": lambda home: of_convert(home, "--svd=2"),
    "convert --dense": lambda home: of_convert(home, "--dense"),
    "export_lists": of_lists,
    "prepare": of_prepare,
    "study of Hyperopt": lambda home: of_study(home, "Hyperopt"),
    "continued study of Hyperopt": lambda home: of_study(home, "Hyperopt", "--resume=True"),
    "study of Ray": lambda home: of_study(home, "Ray"),
    "continued study of Ray": lambda home: of_study(home, "Ray", "--resume=True"),
    "output_file of a search": lambda home: of_search_file(home, "output_file"),
    "display_file of a search": lambda home: of_search_file(home, "display_file"),
    "picture": of_picture,
    "table": of_table,
    "result of a grid": of_result,
    "benchmark": of_benchmark,
}


def user_folder(path: Path) -> None:
    path.mkdir()
    (path / "notes.txt").write_text("mine")


def user_tree(path: Path) -> None:
    (path / "deep").mkdir(parents=True)
    (path / "deep" / "notes.txt").write_text("mine")


def user_names(path: Path) -> None:
    """Files of the names that a command writes, which it did not write."""
    path.mkdir()
    for name in (SCORES, LISTS, f"{LISTS}.partial", "out.inter", "best.yaml", "tuner.pkl"):
        (path / name).write_text("mine")


def user_file(path: Path) -> None:
    path.write_text("mine")


def link_to_folder(path: Path) -> None:
    user_folder(path.with_name("theirs"))
    path.symlink_to("theirs")


def link_to_empty_folder(path: Path) -> None:
    path.with_name("theirs").mkdir()
    path.symlink_to("theirs")


def link_to_file(path: Path) -> None:
    user_file(path.with_name("theirs"))
    path.symlink_to("theirs")


def dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


OBSTACLES = [
    user_folder,
    user_tree,
    user_names,
    user_file,
    link_to_folder,
    link_to_empty_folder,
    link_to_file,
    dangling_link,
]


@pytest.mark.parametrize("obstacle", OBSTACLES)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_refuses_what_it_did_not_make(
    command: str, obstacle: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = COMMANDS[command](tmp_path)
    obstacle(place.path)
    before = contents(tmp_path)
    capsys.readouterr()
    assert place.main(list(place.argv)) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(said) == 1 and place.path.name in said[0]
    assert contents(tmp_path) == before


@pytest.mark.parametrize("command", [name for name in COMMANDS if name.startswith(("convert", "export"))])
def test_a_command_refuses_its_source_and_the_folders_around_it(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = COMMANDS[command](tmp_path)
    assert place.source is not None
    before = contents(tmp_path)
    for out in (place.source, *list(place.source.parents)[:4], place.source / "inside"):
        capsys.readouterr()
        assert place.main([word if not word.startswith("--out=") else f"--out={out}" for word in place.argv]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert str(out) in line and "which is read to make it" in line
        assert contents(tmp_path) == before


@pytest.mark.parametrize("there", ["missing", "empty"])
@pytest.mark.parametrize("command", [name for name in COMMANDS if name.startswith(("convert", "export", "prepare"))])
def test_a_command_writes_a_missing_and_an_empty_folder(command: str, there: str, tmp_path: Path) -> None:
    place = COMMANDS[command](tmp_path)
    if there == "empty":
        place.path.mkdir()
    assert place.main(list(place.argv)) == 0
    assert any(path.is_file() for path in place.path.iterdir())


@pytest.mark.parametrize("command", ["picture", "table"])
def test_what_a_command_made_is_made_again(command: str, tmp_path: Path) -> None:
    if command == "picture":
        pytest.importorskip("matplotlib")
    place = COMMANDS[command](tmp_path)
    assert place.main(list(place.argv)) == 0
    made = place.path.read_bytes()
    assert place.main(list(place.argv)) == 0 and place.path.read_bytes() == made


# -- lists
# --------------------------------------------------------------------------------------------------------------


def test_lists_of_another_k_are_refused_and_equal_ones_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = of_lists(tmp_path)
    assert place.main(list(place.argv)) == 0
    before = contents(tmp_path)
    assert place.main(list(place.argv)) == 0 and contents(tmp_path) == before
    capsys.readouterr()
    assert place.main([*list(place.argv)[:-1], "--k=4"]) == 2
    assert "it holds other lists" in capsys.readouterr().err and contents(tmp_path) == before


def test_lists_are_never_there_without_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = of_lists(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed_before_the_lists)
        with pytest.raises(KeyboardInterrupt):
            place.main(list(place.argv))
    assert (place.path / ABOUT).is_file() and not (place.path / LISTS).exists()
    assert place.main(list(place.argv)) == 0
    assert {path.name for path in place.path.iterdir()} == {ABOUT, LISTS}


def killed_before_the_lists(source: Path, target: Path) -> None:
    if Path(target).name == LISTS:
        raise KeyboardInterrupt
    Path(source).rename(target)


# -- prepared data sets
# -------------------------------------------------------------------------------------------------


def test_what_a_user_added_to_a_prepared_folder_stays_and_links_stay_links(tmp_path: Path) -> None:
    place = of_prepare(tmp_path)
    assert place.main(list(place.argv)) == 0
    (tmp_path / "theirs.txt").write_text("mine")
    (place.path / "link").symlink_to("../theirs.txt")
    (place.path / "dangling").symlink_to("nowhere")
    user_tree(place.path / "tree")
    before = contents(tmp_path)
    assert place.main(list(place.argv)) == 0
    assert contents(tmp_path) == before


def test_a_new_file_of_a_prepared_folder_replaces_no_users_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = of_prepare(tmp_path)
    assert place.main(list(place.argv)) == 0
    (place.path / "out.train.inter").write_text("mine")
    before = contents(tmp_path)
    capsys.readouterr()
    assert place.main([*place.argv, "--split=ratio"]) == 2
    assert "out.train.inter would be replaced" in capsys.readouterr().err and contents(tmp_path) == before


def test_a_raw_file_inside_the_prepared_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = of_prepare(tmp_path)
    assert place.main(list(place.argv)) == 0
    inside = place.path / "raw"
    (tmp_path / "raw").rename(inside)
    before = contents(tmp_path)
    capsys.readouterr()
    assert place.main([word if not word.startswith("--raw=") else f"--raw={inside}" for word in place.argv]) == 2
    assert "which is read to make it" in capsys.readouterr().err and contents(tmp_path) == before


@pytest.mark.parametrize("end", ["partial", "previous"])
def test_hidden_folders_that_prepare_did_not_make_stay(
    end: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = of_prepare(tmp_path)
    user_folder(tmp_path / f".out.{end}")
    before = contents(tmp_path)
    assert place.main(list(place.argv)) == 2
    assert f".out.{end} cannot be written" in capsys.readouterr().err
    assert {name: value for name, value in contents(tmp_path).items() if name != ".out.lock"} == before


# -- runs
# ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("obstacle", [user_folder, dangling_link])
@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_a_run_refuses_what_is_in_an_entrys_place(
    kind: str, obstacle: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path)
    (lock,) = (tmp_path / "cache" / kind).glob("*.lock")
    entry = lock.with_suffix("")
    for path in entry.iterdir():
        path.unlink()
    entry.rmdir()
    obstacle(entry)
    before = contents(tmp_path)
    capsys.readouterr()
    assert run_main(words(tmp_path)) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and entry.name in said[0]
    assert all(contents(tmp_path)[name] == value for name, value in before.items())


def test_a_failed_run_leaves_what_it_did_not_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []

    def failing(plan: Any, stage: Any, after_epoch: Any) -> None:
        seen.append(stage.folder)
        user_tree(stage.folder / "mine")
        (stage.folder / "notes.txt").write_text("mine")
        (stage.folder / "MF.pth").write_text("of the run")
        raise TrainingError("no")

    monkeypatch.setattr(quick_start, "_train", failing)
    assert run_main(words(tmp_path)) == 2
    assert {path.name for path in seen[0].iterdir()} == {"run.log", "mine", "notes.txt"}


def test_runs_of_one_second_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two runs of one process, the second, which fails, leaves the first one's result alone."""
    monkeypatch.setattr(quick_start.time, "strftime", lambda *_: "now")
    first = run(tmp_path)
    before = contents(first["folder"])
    monkeypatch.setattr(quick_start, "distill", fails)
    assert run_main(words(tmp_path)) == 2
    assert contents(first["folder"]) == before and len(list((tmp_path / "saved").iterdir())) == 2


def fails(*_: Any, **__: Any) -> None:
    raise TrainingError("no")


def test_a_trajectory_removes_its_snapshots_alone(tmp_path: Path) -> None:
    user_folder(tmp_path / "kept")
    for name in ("12.pt", "best.pt"):
        (tmp_path / "kept" / name).write_text("mine" if name == "best.pt" else "a snapshot")

    class Training:
        eval_step, best_epoch = 1, -1

    Trajectory(tmp_path / "kept", 3).follow(Training(), resumed=False)
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {"notes.txt", "best.pt"}


@pytest.mark.parametrize("check", [check_file, check_folder])
def test_a_target_below_a_file_is_refused(check: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("mine")
    with pytest.raises(TargetError, match=r"log.txt is not a folder. Name a path below a folder, such as .*log-2"):
        check(tmp_path / "log.txt" / "deep" / "out", option="--out")
    check(tmp_path / "missing" / "deep" / "out", option="--out")
