"""After a run on ml-100k, three lines print a raw user's top 10 in another folder, without the data set."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from recbole_kd.cli.program import main
from tests.support.fresh import python
from tests.support.paths import ROOT

THREE_LINES = """
import recbole_kd
student = recbole_kd.load_student("student")
print(student.recommend(["196"], k=10))
"""
WATCHED = """
import sys
def watch(event, given):
    if event == "open" and ("ml-100k" in str(given[0]) or "dataset_example" in str(given[0])):
        raise RuntimeError(f"opened {given[0]}")  # as if the data set, which ships inside RecBole, were removed
sys.addaudithook(watch)
"""


def test_three_lines_print_the_top_10_of_a_raw_user(tmp_path: Path) -> None:
    words = ["--model=MF", "--teacher=LightGCN", "--kd=RCEKD", "--dataset=ml-100k", "--show_progress=False"]
    words += [
        "--epochs=1",
        "--train_batch_size=16384",
        "--teacher.train_batch_size=16384",
        "--teacher.epochs=1",
        "--teacher.embedding_size=8",
        "--kd_compare=False",
        "--use_gpu=False",
    ]
    words += [f"--output_dir={tmp_path / 'saved'}", f"--cache_dir={tmp_path / 'cache'}"]
    assert main(words) == 0
    (run,) = (tmp_path / "saved").iterdir()
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(run / "student", elsewhere / "student")
    shutil.rmtree(tmp_path / "saved")
    shutil.rmtree(tmp_path / "cache")
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    done = python("-c", WATCHED + THREE_LINES, cwd=elsewhere, env=environment)
    assert done.returncode == 0 and not done.stderr, done.stderr
    head, *rows = done.stdout.strip().splitlines()
    assert head.split() == ["user", "item", "score", "rank"] and len(rows) == 10
    items = set(json.loads((elsewhere / "student" / "items.json").read_text())[1:])
    assert all(row.split()[1] == "196" and row.split()[2] in items for row in rows)
    assert sorted(path.name for path in elsewhere.iterdir()) == ["student"]
