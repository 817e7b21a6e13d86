"""What a refusal says to type works: the plan of the same run with that key is accepted."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_kd.cli.program import run_verb
from tests.support.advice import follow
from tests.support.helpers import write_tiny
from tests.support.runs import words

VECTORS: dict[str, str | None] = {"kd": "DE", **dict.fromkeys(("kd_k", "kd_n_samples", "kd_candidates"))}
SEQUENTIAL: dict[str, str | None] = {"setting": "sequential", "eval_args.order": None, "teacher.embedding_size": None}
REFUSALS: dict[str, tuple[dict[str, str | None], list[str]]] = {
    "vectors-of-online": ({**VECTORS, **SEQUENTIAL, "teacher": "TransRec"}, []),
    "svd-of-online": ({**SEQUENTIAL, "teacher": "TransRec"}, ["--teacher_svd=5"]),
    "half-online": ({**SEQUENTIAL, "teacher": "TransRec"}, ["--teacher_dtype=fp16"]),
    "address": ({}, ["--teacher_ray_address=local"]),
    "clusters": ({"teacher": "NCL"}, []),
    "critic": ({"teacher": "RaCT", "teacher.embedding_size": None}, []),
    "sampled-ids": ({"teacher": "DGCF"}, ["--teacher.train_batch_size=100000"]),
    "sampled-ids-of-student": ({"model": "DGCF", "train_batch_size": "100000"}, []),
    "index": ({}, ["--kd_nlist=4"]),
    "index-of-student": ({"model": "NeuMF"}, ["--kd_candidate_index=ivf"]),
    "index-of-teacher": ({"teacher_store": "dense"}, ["--kd_candidate_index=ivf", "--kd_index_teacher=True"]),
    "labels": ({}, ["--eval_args.mode=labeled"]),
    "interval": ({}, ["--val_interval={timestamp: 5}"]),
    "order-of-times": ({"eval_args.order": "RO"}, ["--eval_args.split={TS: [1000, 2000]}"]),
    "time-order": ({}, ["--time_order=exakt"]),
    "type": ({"kd_k": "abc"}, []),
    "zero": ({"kd_k": "0"}, []),
    "processes-of-method": ({**VECTORS, "nproc": "2"}, []),
    "processes-of-student": ({"model": "SGL", "nproc": "2"}, []),
    "processes-of-trials": ({"kd_weight": "auto", "nproc": "2", "epochs": "20"}, []),
    "mixed-precision": ({"model": "NGCF"}, ["--enable_amp=True"]),
    "mixed-precision-of-teacher": ({"teacher": "NGCF"}, ["--teacher.enable_amp=True"]),
    "order-of-histories": ({**SEQUENTIAL, "model": "SASRec", "embedding_size": None}, ["--eval_args.order=RO"]),
    "cutoffs": ({}, ["--topk=[500]", "--valid_metric=NDCG@500"]),
}
"""Name -> keys set or left out, and further words: each is refused by a sentence that names a key to set.

The advice of the refusals in test_bad_input.py is followed there.
"""

NEEDS_FAISS = ("clusters", "index", "index-of-student", "index-of-teacher")


@pytest.mark.parametrize("name", REFUSALS)
def test_what_a_refusal_advises_is_accepted(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if name in NEEDS_FAISS:
        pytest.importorskip("faiss")
    write_tiny(tmp_path / "data", "tiny", n_users=100, n_items=90)
    changes, more = REFUSALS[name]
    given = [*words(tmp_path, **changes), *more]
    assert run_verb("plan", given) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert follow(line, given, capsys) > 0, line
