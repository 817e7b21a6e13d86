"""Files of every kind, damaged in every way: the same figures or one sentence, and no file of the user's lost."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from recbole_kd.cli.program import main
from tests.support.campaign import Home, Record
from tests.support.damages import damages_of
from tests.support.forked import Ending, operations
from tests.support.scenarios import SCENARIOS

pytestmark = pytest.mark.campaign

SEED = 11


def made(home: Home) -> list[Path]:
    """Return the files below the cache that a run made."""
    return [path for path in sorted(home.cache.rglob("*")) if path.is_file() and path.suffix not in (".lock", ".txt")]


def verdict_of(home: Home, given: list[str], wanted: Any) -> str | None:
    """Run the program with these words and return what does not hold."""
    return verdict(home.run(given), home, wanted)


def verdict(ending: Ending, home: Home, wanted: Any) -> str | None:
    """Return what does not hold: other figures, or an ending that is no sentence."""
    problem = ending.problem() or home.lost()
    if problem is None and ending.code == 0 and home.figures() != wanted:
        return f"other figures in silence: {home.figures()}"
    return problem


def kept_copy(campaign: Record, home: Home) -> Path:
    """Return a copy of a home."""
    kept = campaign.folder / "kept"
    shutil.rmtree(kept, ignore_errors=True)
    return Path(shutil.copytree(home.folder, kept, symlinks=True))


def damage_each(
    campaign: Record,
    kind: str,
    name: str,
    home: Home,
    files: list[Path],
    again: Callable[[], str | None],
    most: int = 200,
) -> None:
    """Damage each file in each way, in a fresh copy of the home, and note what ``again`` finds wrong.

    Args:
        most: of these damages, drawn.
    """
    kept = kept_copy(campaign, home)
    draw = random.Random(f"{SEED} {name}")
    damages = [(path, label, damage) for path in files for label, damage in damages_of(path).items()]
    for path, label, damage in draw.sample(damages, min(most, len(damages))):
        shutil.rmtree(home.folder)
        shutil.copytree(kept, home.folder, symlinks=True)
        damage(path, draw)
        campaign.note(kind, f"{name}, {path.relative_to(home.folder)} {label}", again())
    campaign.check(kind)


@pytest.mark.parametrize(
    "name",
    [
        "RCEKD",
        "HetComp of two teachers",
        "TARec with its assistant",
        "dense store",
        "truncated store",
        "BM3 with features of words",
    ],
)
def test_damaged_entries_of_the_cache(name: str, campaign: Record, data: Path) -> None:
    home = Home(campaign.folder / "damaged", data)
    given = home.words(**SCENARIOS[name])
    assert home.run(given).code == 0
    wanted, files = home.figures(), made(home)
    most = 70
    if name != "RCEKD":  # what every scenario has is damaged once
        files, most = [path for path in files if path.parent.parent.name not in ("student",)], 25
    damage_each(campaign, "damaged cache", name, home, files, partial(verdict_of, home, given, wanted), most)


@pytest.mark.parametrize("name", ["RCEKD", "HetComp of two teachers"])
def test_damaged_states_of_killed_runs(name: str, campaign: Record, data: Path) -> None:
    """A run is killed in the middle of each stage, and what it left is damaged before it is continued."""
    place = campaign.folder / "states"
    home = Home(place, data)
    given = home.words(**SCENARIOS[name], epochs="6") if name == "RCEKD" else home.words(**SCENARIOS[name])
    assert home.run(given, list_below=home.folder).code == 0
    wanted, lines = home.figures(), operations(home.folder / "here")
    for stage in ("/teacher/", "/student/", "/distilled/"):
        written = [
            number
            for number, line in enumerate(lines, 1)
            if stage in line and line.startswith("os.rename") and ".pt" in line
        ]
        home = Home(place, data)
        home.run(given, kill_before=(written[len(written) // 2] + 1, home.folder))
        files = [path for path in made(home) if ".pt" in path.name and stage in str(path)][:3]
        assert files, stage
        again = partial(verdict_of, home, [*given, "--resume=True"], wanted)
        damage_each(campaign, "damaged states", f"{name}{stage}", home, files, again, 12)


def test_damaged_prepared_data(campaign: Record, data: Path) -> None:
    home = Home(campaign.folder / "prepared", data)
    (home.folder / "raw").mkdir()
    rows = [
        "uid,sku,ts",
        *(f"u{user},i{(user * 7 + step * 3) % 40},{step}" for user in range(30) for step in range(12)),
    ]
    (home.folder / "raw" / "log.csv").write_text("\n".join(rows) + "\n")
    out = home.folder / "prepared"
    prepare = [
        "prepare", "mine", "--form=table", f"--raw={home.folder / 'raw'}", "--file=log.csv", "--user=uid", "--item=sku",
        "--time=ts", "--split=ratio", f"--out={out}",
    ]  # fmt: skip
    assert home.run(prepare).code == 0
    given = home.words(dataset="mine", data_path=str(out), kd_compare="False", eval_args__order=None)
    assert home.run(given).code == 0
    wanted = home.figures()
    files = sorted(path for path in (out / "mine").iterdir() if path.suffix in (".inter", ".json"))
    damage_each(campaign, "damaged data", "prepared", home, files, partial(verdict_of, home, given, wanted))


def test_damaged_students(campaign: Record, data: Path) -> None:
    home = Home(campaign.folder / "student", data)
    assert home.run(home.words(kd_compare="False")).code == 0
    folder = next(home.saved.glob("*/student"))
    old = shutil.copytree(folder, home.folder / "old")
    users = home.folder / "users.txt"
    users.write_text("u1\nu2\n")
    words = ["recommend", str(folder), f"--users={users}", "--k=5"]
    assert home.run([*words, f"--out={home.folder / 'whole.csv'}"]).code == 0
    wanted = (home.folder / "whole.csv").read_text()

    def again() -> str | None:
        out = home.folder / "again.csv"
        ending = home.run([*words, f"--out={out}"])
        problem = ending.problem() or home.lost()
        return problem or ("other lists in silence" if ending.code == 0 and out.read_text() != wanted else None)

    damage_each(campaign, "damaged students", "student", home, sorted(folder.iterdir()), again)
    start = home.words(f"--init_from={old}", kd_compare="False")
    assert home.run(start).code == 0
    again_from = partial(verdict_of, home, start, home.figures())
    damage_each(campaign, "damaged students", "init_from", home, sorted(old.iterdir()), again_from, 30)


def test_damaged_studies_and_results(campaign: Record, data: Path) -> None:
    home = Home(campaign.folder / "study", data)
    space = home.folder / "space.yaml"
    space.write_text("kd_weight: {choice: [0.1, 1.0]}\n")
    tune = ["tune", *home.words(f"--params_file={space}", "--study=made", "--tool=Hyperopt", "--algo=exhaustive")]
    assert home.run(tune, timeout=120).code == 0
    study = home.saved / "made"
    scores = sorted(trial["score"] for trial in json.loads((study / "trials.json").read_text())["trials"])

    def again() -> str | None:
        ending = home.run([*tune, "--resume=True"], timeout=120)
        problem = ending.problem() or home.lost()
        if problem or ending.code:
            return problem
        found = sorted(trial["score"] for trial in json.loads((study / "trials.json").read_text())["trials"])
        return None if found == scores else f"other scores in silence: {found}, not {scores}"

    damage_each(campaign, "damaged studies", "study", home, sorted(study.glob("*.json")), again)


def test_damaged_locks_and_entries(campaign: Record, data: Path) -> None:
    """Folders, links and files where a lock, an entry, its workshop or a folder of the cache is expected."""
    home = Home(campaign.folder / "odd", data)
    given = home.words()
    assert home.run(given).code == 0
    wanted, kept = home.figures(), kept_copy(campaign, home)
    names = {
        kind: next(path.name for path in (home.cache / kind).iterdir() if path.is_dir())
        for kind in ("teacher", "student", "trained")
    }
    for kind, name in names.items():
        for suffix in ("", ".lock", ".work"):
            for odd in ("file", "folder", "link to nowhere", "link to the user's folder", "pipe"):
                shutil.rmtree(home.folder)
                shutil.copytree(kept, home.folder)
                own = home.folder / "own"
                own.mkdir()
                home.plant(own / "thesis.txt")
                _put(home.cache / kind / f"{name}{suffix}", odd, own)
                if suffix == ".work":
                    shutil.rmtree(home.cache / kind / name)  # the entry is made again, in this workshop
                ending = home.run(given)
                campaign.note("odd cache", f"{kind}{suffix or ' entry'} is a {odd}", verdict(ending, home, wanted))
    campaign.check("odd cache")


def _put(path: Path, odd: str, own: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if odd == "file":
        path.write_text("x")
    elif odd == "folder":
        path.mkdir()
    elif odd == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(own if "user" in odd else Path("/nonexistent/x"))


def test_nothing_is_lost_by_pruning_a_damaged_cache(campaign: Record, data: Path) -> None:
    home = Home(campaign.folder / "pruned", data)
    assert home.run(home.words()).code == 0
    draw = random.Random(SEED)
    for path in made(home):
        damages_of(path)["a bit flipped"](path, draw)
    for words in (["list"], ["verify"], ["prune", "--damaged", "--dry-run"], ["prune", "--damaged"], ["verify"]):
        ending = home.run(["cache", *words, f"--cache_dir={home.cache}"])
        campaign.note("cache verb", " ".join(words), ending.problem(1) or home.lost())
    campaign.check("cache verb")
    assert main(["cache", "list", f"--cache_dir={home.cache}"]) == 0
