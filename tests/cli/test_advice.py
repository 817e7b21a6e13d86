"""What a refusal says to type works: the plan of the same run with that key is accepted."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from recbole_kd.cli.program import run_verb
from tests.support.helpers import write_tiny
from tests.support.runs import words

VECTORS: dict[str, str | None] = {"kd": "DE", **dict.fromkeys(("kd_k", "kd_n_samples", "kd_candidates"))}
SEQUENTIAL: dict[str, str | None] = {"setting": "sequential", "eval_args.order": None, "teacher.embedding_size": None}
EASE: dict[str, str | None] = {"teacher": "EASE", "teacher.embedding_size": None, "teacher.epochs": None}
REFUSALS: dict[str, tuple[dict[str, str | None], list[str]]] = {
    "vectors-of-online": ({**VECTORS, **SEQUENTIAL, "teacher": "TransRec"}, []),
    "vectors-of-dense": ({**VECTORS, **EASE}, []),
    "vectors-not-kept": ({**VECTORS, "teacher_store": "dense"}, []),
    "svd-of-online": ({**SEQUENTIAL, "teacher": "TransRec"}, ["--teacher_svd=5"]),
    "factors": (EASE, ["--teacher_store=factors"]),
    "online": (EASE, ["--teacher_store=online"]),
    "half-online": ({**SEQUENTIAL, "teacher": "TransRec"}, ["--teacher_dtype=fp16"]),
    "address": ({}, ["--teacher_ray_address=local"]),
    "clusters": ({"teacher": "NCL"}, []),
    "critic": ({"teacher": "RaCT", "teacher.embedding_size": None}, []),
    "setting-of-teacher": ({"teacher": "SASRec", "teacher.embedding_size": None, "eval_args.order": None}, []),
    "sampled-ids": ({"teacher": "DGCF"}, ["--teacher.train_batch_size=100000"]),
    "sampled-ids-of-student": ({"model": "DGCF", "train_batch_size": "100000"}, []),
    "type": ({"kd_k": "abc"}, []),
    "zero": ({"kd_k": "0"}, []),
    "catalogue": ({"kd_k": "100000"}, []),
    "candidates": ({"kd_n_samples": "20"}, []),
    "choice": ({}, ["--kd_faithful=both"]),
    "weight": ({}, ["--kd_weight=-1"]),
    "refresh": ({}, ["--kd_refresh=0"]),
    "store": ({}, ["--teacher_store=sparse"]),
    "dtype": ({}, ["--teacher_dtype=int8"]),
    "reduction": ({}, ["--teacher.loss_reduction=Sum"]),
    "epochs": ({"epochs": "abc"}, []),
    "learner": ({}, ["--learner=adamm"]),
    "metric": ({}, ["--valid_metric=NDCG@30"]),
    "std": ({}, ["--init_std=0"]),
    "protocol-mode": ({}, ["--eval_protocol=paper", "--eval_args.mode=uni20"]),
    "index": ({}, ["--kd_nlist=4"]),
}
"""Name -> keys set or left out, and further words: each is refused by a sentence that names a key to set."""


def refused(said: str) -> str:
    (line,) = (line for line in said.splitlines() if line.startswith("error: "))
    return line


KEY = re.compile(r"(?:--)?[\w.]+=(?:\[[^\]]*\]|\{[^}]*\}|'[^']*'|[^\s,;)]+)")


def advice_in(line: str) -> list[list[str]]:
    """The ways out that a sentence names, each the words of one or more keys that stand side by side."""
    found = []
    for verb in re.finditer(r"\b(?:Try|[Tt]ake|[Ss]et|with(?= --teacher_)) (?=(?:--)?[\w.]+=)", line):
        at, way = verb.end(), list[str]()
        while (key := KEY.match(line, at)) is not None:
            way.append("--" + shlex.split(key[0].rstrip("."))[0].removeprefix("--") if "[" not in key[0] else key[0])
            at = key.end() + 1
        found.append(way)
    return found


def overridden(given: list[str], advice: list[str]) -> list[str]:
    keys = {word.split("=")[0] for word in advice}
    return [word for word in given if word.split("=")[0] not in keys] + advice


@pytest.mark.parametrize("name", REFUSALS)
def test_what_a_refusal_advises_is_accepted(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "clusters":
        pytest.importorskip("faiss")
    write_tiny(tmp_path / "data", "tiny", n_users=100, n_items=90)
    changes, more = REFUSALS[name]
    given = [*words(tmp_path, **changes), *more]
    assert run_verb("plan", given) == 2
    line = refused(capsys.readouterr().err)
    ways = advice_in(line)
    assert ways, line
    for way in ways:
        code = run_verb("plan", overridden(given, way))
        said = capsys.readouterr().err
        assert code == 0, f"{line}\n{way}\n{said}"
