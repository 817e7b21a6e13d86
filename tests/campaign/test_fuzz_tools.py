"""Seeded nonsense as words and files of the other programs: a sentence or a result, never a traceback."""

from __future__ import annotations

import random
import shutil
import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from recbole_kd.cli.program import VERBS
from tests.support.campaign import Home, Record
from tests.support.forked import Ending
from tests.support.odd_values import ODD, RUN_KEYS

pytestmark = pytest.mark.campaign

SEED = 3


def note(campaign: Record, label: str, ending: Ending, home: Home) -> None:
    campaign.note("fuzz of tools", label[:120], ending.problem() or home.lost())


def test_grids_spaces_and_results(campaign: Record, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(SEED)
    home = Home(campaign.folder / "fuzz", data)
    monkeypatch.setenv("RECBOLE_KD_CACHE", str(home.cache))
    config = "config: {dataset: tiny, model: MF, teacher: MF, kd: RCEKD}\n"
    file, results = home.folder / "grid.yaml", home.folder / "results"
    odd = [value for value in ODD if "\n" not in value and "\x00" not in value]
    parts = ["title", "seeds", "config", "runs", "reference", "metric", "published"]
    texts = [f"{config}runs: {{a: {{}}}}\n{key}: {value}" for key in parts for value in draw.sample(odd, 5)]
    texts += [
        f"{config}runs: {{{name}: {{{key}: {value}}}}}"
        for name, key, value in zip(
            draw.choices(odd, k=20), draw.choices(["from", *RUN_KEYS], k=20), draw.choices(odd, k=20), strict=True
        )
    ]
    for text in texts:
        file.write_text(text)
        words = [
            "reproduce",
            str(file),
            f"--results={results}",
            f"--data_path={data}",
            f"--output_dir={home.saved}",
            "--table",
        ]
        note(campaign, f"grid {text[-50:]!r}", home.run(words), home)
    file.write_text(config + "runs: {a: {}}")
    (results / "grid").mkdir(parents=True, exist_ok=True)
    for text in [*draw.sample(odd, 12), '{"settings": {}}', '{"distilled": 1}', '{"versions": []}', "[" * 100_000]:
        (results / "grid" / "a-seed0.json").write_text(text)
        for words in (
            ["reproduce", str(file), f"--results={results}", "--table"],
            ["plot", str(file), f"--results={results}"],
        ):
            note(campaign, f"{words[0]} of the result {text[:30]!r}", home.run(words), home)
    space = home.folder / "space.yaml"
    kinds = ["choice", "int", "uniform", "loguniform", "quniform", "nonsense"]
    texts = [
        f"{key}: {{{kind}: {value}}}"
        for key, kind, value in zip(
            draw.choices(RUN_KEYS, k=50),
            draw.choices(kinds, k=50),
            draw.choices([*odd, "[5, 1]", "[0, 1]", "[a, b]", "[.nan]", "[1, 2, 3]"], k=50),
            strict=True,
        )
    ]
    for number, text in enumerate(texts):
        space.write_text(text)
        key = text.split(":")[0]
        words = home.words(epochs="1", teacher__epochs="1", kd_compare="False")
        given = [word for word in words if word.split("=")[0] != f"--{key}"]
        more = [f"--params_file={space}", "--algo=random", "--max_evals=1", f"--study=s{number}"]
        note(campaign, f"space {text[:60]}", home.run(["tune", *given, *more]), home)
    campaign.check("fuzz of tools")


@dataclass(frozen=True)
class Words:
    """Words of a program that work.

    Attributes:
        given: the words. tries: how many changes of them are tried. before: called in the child.
    """

    given: list[str]
    tries: int = 12
    before: Callable[[], object] = lambda: None


def _serves_nobody() -> None:
    """Let a server end as soon as it listens."""
    import uvicorn

    uvicorn.Server.run = lambda self, sockets=None: None  # type: ignore[method-assign]


def _programs(home: Home, out: Path) -> dict[str, Words]:
    """Return words of each program that work in a home with one finished run."""
    teacher = next(path for path in (home.cache / "teacher").iterdir() if path.is_dir())
    run = next(path.parent for path in home.saved.glob("*/result.json"))
    users, lists, grid = (home.folder / name for name in ("users.txt", "lists.csv", "grid.yaml"))
    users.write_text("u1\n")
    raw = home.folder / "raw"
    raw.mkdir()
    shutil.copy(home.data / "tiny" / "tiny.inter", raw / "log.tsv")
    lists.write_text("user,item,rank\n" + "".join(f"u{user},i{user},1\n" for user in range(30)))
    grid.write_text("config: {dataset: tiny, model: MF, teacher: MF, kd: RCEKD}\nruns: {a: {}}\n")
    short = home.words(epochs="1", teacher__epochs="1")
    of_data = ["--dataset=tiny", *(w for w in short if w.startswith(("--data_path", "--load_col", "--eval_args")))]
    return {
        "list": Words([], 3), "plan": Words(home.words(epochs="1")),
        "prepare": Words([
            "mine", "--form=table", f"--raw={raw}", "--file=log.tsv", "--user=user_id:token",
            "--item=item_id:token", "--time=timestamp:float", "--core=2", "--split=ratio", f"--out={out}",
        ]),
        "export-lists": Words([str(teacher), f"--out={out}", "--k=5", "--first=1", "--queries=3", "--block=2"]),
        "convert-teacher": Words([str(teacher), f"--out={out}", "--svd=2", "--dtype=fp16"]),
        "import-teacher": Words([str(lists), "--user=user", "--item=item", "--rank=rank", f"--out={out}", *of_data]),
        "inspect-teacher": Words([str(teacher), "--k=3", "--json", *of_data]),
        "recommend": Words([str(run), f"--users={users}", "--k=3", f"--out={out}.csv"]),
        "export": Words([str(run), "--to=npz,int8", f"--out={out}"]),
        "latency": Words([str(run), f"--teacher_path={teacher}", "--k=3", "--seconds=0.01", f"--out={out}.json"], 8),
        "serve": Words([str(run), "--port=0", "--host=127.0.0.1"], 10, _serves_nobody),
        "new-users": Words([f"--folder={out}", "--share=0.2", "--user_seed=1", "--part=valid", *short], 8),
        "compare": Words([*short, "--seed=0,1"], 8),
        "cache": Words([
            "list", f"--cache_dir={home.cache}", "--kind=teacher", "--older_than=1", "--larger_than=1", "--damaged",
        ]),
        "report": Words([str(run)], 8),
        "plot": Words([str(grid), f"--results={out}"]),
        "reproduce": Words([str(grid), f"--results={out}", "--table", "--cpus_per_task=1"]),
        "benchmark": Words(["--nonsense"], 3),
    }  # fmt: skip


def _changed(words: list[str], draw: random.Random) -> list[str]:
    """Return words with one or two of them left out, put in, or of another value."""
    given = list(words)
    for _ in range(draw.randrange(1, 3)):
        place = draw.randrange(len(given)) if given else 0
        change = draw.randrange(4)
        if change == 0 and given:
            given.pop(place)
        elif change == 1 and given and "=" in given[place]:
            given[place] = f"{given[place].split('=')[0]}={draw.choice(ODD)}"
        elif change == 2:
            given.insert(place, draw.choice(ODD))
        else:
            given.insert(place, f"--{''.join(draw.choices(string.ascii_lowercase, k=5))}={draw.choice(ODD)}")
    return [word for word in given if word not in ("/", "..") and not word.endswith(("=/", "=.."))]


def test_words_of_every_program(campaign: Record, data: Path) -> None:
    draw = random.Random(SEED)
    home = Home(campaign.folder / "fuzz", data)
    assert home.run(home.words(kd_compare="False", epochs="1", teacher__epochs="1")).code == 0
    out = home.folder / "out"
    programs = _programs(home, out)
    assert set(programs) | {"run", "tune"} == set(VERBS)
    for verb, words in programs.items():
        for number in range(words.tries):
            for path in home.folder.glob("out*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            given = _changed(words.given, draw) if number else words.given  # first as they are: these must work
            ending = home.run([verb, *given], before=words.before)
            problem = ending.problem() or home.lost()
            if not number and ending.code and verb not in ("benchmark", "plot", "reproduce"):
                problem = problem or f"does not work: {ending.errors}"
            campaign.note("fuzz of tools", f"{verb} {given}"[:200], problem)
    campaign.check("fuzz of tools")
