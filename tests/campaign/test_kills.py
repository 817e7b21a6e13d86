"""Kills at file operations and random moments: the next run has the same figures and loses nothing."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from recbole_kd.cli.program import main
from tests.support.campaign import Home, Record, contents, figures_of, leftovers
from tests.support.forked import operations
from tests.support.scenarios import SCENARIOS

pytestmark = pytest.mark.campaign

OPERATIONS = 112
"""Kills before file operations, over all scenarios."""
MOMENTS = 1
"""Kills at random moments, of each scenario."""
SEED = 20


def entries(cache: Path) -> dict[str, tuple[int, int]]:
    """Return each finished entry's files with inode and time: what is finished is never made again."""
    found = {}
    for path in cache.glob("*/*/*"):
        if path.is_file() and ".work" not in str(path) and not path.parent.name.startswith("."):
            found[str(path)] = (path.stat().st_ino, path.stat().st_mtime_ns)
    return found


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_killed_run_goes_on_to_the_same_figures(name: str, campaign: Record, data: Path) -> None:
    draw = random.Random(f"{SEED} {name}")
    home = Home(campaign.folder / "kills", data)
    given = home.words(**SCENARIOS[name])
    whole = home.run(given, list_below=home.folder)
    assert whole.code == 0 and not whole.problem(), whole.err
    wanted, lines = home.figures(), operations(home.folder / "here")
    each = -(-OPERATIONS // len(SCENARIOS))
    kills: list[dict[str, Any]] = [
        {"kill_before": (number, home.folder)} for number in sorted(draw.sample(range(1, len(lines) + 1), each))
    ]
    kills += [{"signal_after": (draw.uniform(0.02, whole.seconds), signal.SIGKILL)} for _ in range(MOMENTS)]
    for how in kills:
        home = Home(campaign.folder / "kills", data)
        home.run(given, **how)
        finished = entries(home.cache)
        last = home.run([*given, "--resume=True"])
        label = f"{name}, {lines[how['kill_before'][0] - 1] if 'kill_before' in how else how['signal_after'][0]}"
        after = entries(home.cache)
        again = [path for path, stamp in finished.items() if after.get(path) != stamp]
        left = [file for file in leftovers(home.cache) if "my-notes" not in file]
        problem = last.problem() or home.lost()
        problem = problem or (f"code {last.code}: {last.errors}" if last.code else None)
        problem = problem or (f"other figures: {home.figures()}" if home.figures() != wanted else None)
        problem = problem or (f"made again: {again[0]}" if again else None) or (f"left: {left[0]}" if left else None)
        campaign.note("kills of runs", label, problem)
    campaign.check("kills of runs")


# -- the other programs
# ------------------------------------------------------------------------------------------------


def _raw(home: Home) -> list[str]:
    (home.folder / "raw").mkdir()
    rows = [
        "uid,sku,ts",
        *(f"u{user},i{(user * 7 + step * 3) % 90},{step}" for user in range(200) for step in range(20)),
    ]
    (home.folder / "raw" / "log.csv").write_text("\n".join(rows) + "\n")
    return [
        "prepare", "mine", "--form=table", f"--raw={home.folder / 'raw'}", "--file=log.csv", "--user=uid", "--item=sku",
        "--time=ts", "--split=ratio", f"--out={home.folder / 'made'}",
    ]  # fmt: skip


def _teacher(home: Home) -> Path:
    """Return a teacher that this process has made."""
    place = home.folder.parent / "teacher of the programs"
    if not place.exists():
        assert main(Home(place, home.data).words(kd_compare="False")) == 0
    return next(path for path in (place / "cache" / "teacher").iterdir() if path.is_dir())


def _lists(home: Home) -> list[str]:
    return ["export-lists", str(_teacher(home)), f"--out={home.folder / 'made'}", "--k=5", "--block=4"]


def _truncated(home: Home) -> list[str]:
    return ["convert-teacher", str(_teacher(home)), f"--out={home.folder / 'made'}", "--svd=3", "--dtype=fp16"]


def _dense(home: Home) -> list[str]:
    return ["convert-teacher", str(_teacher(home)), f"--out={home.folder / 'made'}", "--dense"]


def _study(home: Home) -> list[str]:
    space = home.folder / "space.yaml"
    space.write_text("kd_weight: {choice: [0.1, 1.0]}\nlearning_rate: {choice: [0.01, 0.001]}\n")
    more = [f"--params_file={space}", "--study=made", "--tool=Hyperopt", "--algo=exhaustive"]
    return ["tune", *home.words(*more)]


def _grid(home: Home) -> list[str]:
    config: dict[str, Any] = {}
    for word in home.words(data_path=None, cache_dir=None, output_dir=None):
        key, _, value = word[2:].partition("=")
        table, _, inner = key.rpartition(".")
        table = {"teacher": "teacher_config"}.get(table, table)
        (config.setdefault(table, {}) if table else config)[inner] = yaml.safe_load(value)
    config.pop("show_progress")
    file = home.folder / "grid.yaml"
    runs = {"a": {}, "b": {"kd_weight": 1.0}, "c": {"kd_weight": 2.0}}
    file.write_text(yaml.safe_dump({"title": "t", "seeds": [0], "config": config, "runs": runs}))
    return [
        "reproduce", str(file), f"--results={home.folder / 'made'}", f"--data_path={home.data}",
        f"--output_dir={home.saved}",
    ]  # fmt: skip


def _comparison(home: Home) -> list[str]:
    return ["compare", *home.words(seed="0,1")]


def _imported(home: Home) -> list[str]:
    table = home.folder / "lists.csv"
    rows = (f"u{user},i{(user * 7 + rank * 3) % 40},{rank}" for user in range(30) for rank in range(1, 6))
    table.write_text("user,item,rank\n" + "\n".join(rows) + "\n")
    data = [word for word in home.words() if word.startswith(("--data_path", "--load_col", "--eval_args"))]
    return ["import-teacher", str(table), "--dataset=tiny", "--rank=rank", f"--out={home.folder / 'made'}", *data]


def _exported(home: Home) -> list[str]:
    _teacher(home)
    student = next((home.folder.parent / "teacher of the programs" / "saved").glob("*/student"))
    return ["export", str(student), "--to=npz,int8", f"--out={home.folder / 'made'}"]


def _compared(home: Home) -> Any:
    return {path.name: figures_of(json.loads(path.read_text())) for path in home.saved.glob("compare-*/results/*.json")}


def _files(home: Home) -> Any:
    return contents(home.folder / "made")


def _trials(home: Home) -> Any:
    trials = json.loads((home.saved / "made" / "trials.json").read_text())["trials"]
    kept = ("settings", "state", "score", "epochs", "valid", "test")
    return sorted(json.dumps({key: trial[key] for key in kept}, sort_keys=True) for trial in trials)


def _results(home: Home) -> Any:
    folder = home.folder / "made" / "grid"
    return {path.name: figures_of(json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))}


PROGRAMS: dict[str, tuple[Callable[[Home], list[str]], Callable[[Home], Any], list[str]]] = {
    "prepare": (_raw, _files, []),
    "export-lists": (_lists, _files, []),
    "convert-teacher --svd": (_truncated, _files, []),
    "convert-teacher --dense": (_dense, _files, []),
    "tune": (_study, _trials, ["--resume=True"]),
    "reproduce": (_grid, _results, []),
    "compare": (_comparison, _compared, []),
    "import-teacher": (_imported, _files, []),
    "export": (_exported, _files, []),
}
"""Program -> its words, what must be the same, and what is added to go on."""


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_killed_program_goes_on_to_the_same_content(
    name: str, campaign: Record, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, outcome, more = PROGRAMS[name]
    draw = random.Random(f"{SEED} {name}")
    home = Home(campaign.folder / "programs", data)
    monkeypatch.setenv("RECBOLE_KD_CACHE", str(home.cache))
    whole = home.run(words(home), list_below=home.folder, timeout=120)
    assert whole.code == 0 and not whole.problem(), whole.err
    wanted, lines = outcome(home), operations(home.folder / "here")
    assert wanted
    for number in sorted(draw.sample(range(1, len(lines) + 1), min(5, len(lines)))):
        home = Home(campaign.folder / "programs", data)
        given = words(home)
        home.run(given, kill_before=(number, home.folder), timeout=120)
        begun = (home.saved / "made").exists()
        last = home.run([*given, *(more if begun else [])], timeout=120)
        problem = last.problem() or home.lost() or (f"code {last.code}: {last.errors}" if last.code else None)
        if problem is None and outcome(home) != wanted:
            problem = "other content"
        campaign.note("kills of programs", f"{name}, {lines[number - 1]}", problem)
    campaign.check("kills of programs")
