"""Files of every kind, damaged in every way: the same figures or one sentence, and no file of the user's lost."""

from __future__ import annotations

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
from tests.support.forked import Ending
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
    campaign: Record, kind: str, name: str, home: Home, files: list[Path], again: Callable[[], str | None]
) -> None:
    """Damage each file in each way, in a fresh copy of the home, and note what ``again`` finds wrong."""
    kept = kept_copy(campaign, home)
    draw = random.Random(f"{SEED} {name}")
    for path in files:
        for label, damage in damages_of(path).items():
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
    if name != "RCEKD":  # what every scenario has is damaged once
        files = [path for path in files if path.parent.parent.name not in ("student",)]
    damage_each(campaign, "damaged cache", name, home, files, partial(verdict_of, home, given, wanted))


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
