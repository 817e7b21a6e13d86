"""Wrong objects as arguments of the Python API: each is one of our errors or is accepted."""

from __future__ import annotations

import io
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.utils import get_model

import recbole_kd
from recbole_kd.errors import KDError
from tests.support.campaign import Home, Record
from tests.support.helpers import TinyData, build_case, build_config

pytestmark = pytest.mark.campaign


def api_calls(folder: str, data: Path) -> dict[str, Callable[[Any], object]]:
    """Return calls with one argument that is wrong, by name."""
    tiny = TinyData(str(data), "tiny")
    kd = {"kd": "RCEKD", "kd_k": 5, "kd_n_samples": 5, "kd_candidates": 10}
    config = build_config(tiny, "MF", **kd)
    case = build_case(tiny, "MF", **kd)
    train, valid = case.loaders.train, case.loaders.valid
    teacher = recbole_kd.load_teacher(folder, train)

    def student() -> Any:
        return get_model("MF")(config, train._dataset)

    def trainer() -> Any:
        model = student()
        return recbole_kd.KDTrainer(config, model, recbole_kd.build_distiller(config, model, teacher))

    return {
        "load_teacher(X, train)": lambda x: recbole_kd.load_teacher(x, train),
        "load_teacher(folder, X)": lambda x: recbole_kd.load_teacher(folder, x),
        "load_teacher(folder, train, device=X)": lambda x: recbole_kd.load_teacher(folder, train, device=x),
        "build_distiller(X, student, teacher)": lambda x: recbole_kd.build_distiller(x, student(), teacher),
        "build_distiller(config, X, teacher)": lambda x: recbole_kd.build_distiller(config, x, teacher),
        "build_distiller(config, student, X)": lambda x: recbole_kd.build_distiller(config, student(), x),
        "KDTrainer(X, student)": lambda x: recbole_kd.KDTrainer(x, student()),
        "KDTrainer(config, X)": lambda x: recbole_kd.KDTrainer(config, x),
        "KDTrainer(config, student, X)": lambda x: recbole_kd.KDTrainer(config, student(), x).fit(train, valid),
        "fit(X)": lambda x: trainer().fit(x, valid),
        "fit(train, X)": lambda x: trainer().fit(train, x),
        "prepare_data(X)": lambda x: recbole_kd.prepare_data(x),
        "register_model(X)": lambda x: recbole_kd.register_model(x),
        "load_student(X)": lambda x: recbole_kd.load_student(x),
        "teacher_loader(X, teacher)": lambda x: recbole_kd.teacher_loader(x, teacher),
        "teacher_loader(train, X)": lambda x: recbole_kd.teacher_loader(train, x),
        "teacher_loader(train, teacher, k=X)": lambda x: recbole_kd.teacher_loader(train, teacher, k=x),
        "distil(X, distiller)": lambda x: recbole_kd.distil(x, trainer().distiller),
        "distil(trainer, X)": lambda x: recbole_kd.distil(recbole_kd.KDTrainer(config, student()), x),
        "run_recbole_kd(config_dict=X)": lambda x: recbole_kd.run_recbole_kd(config_dict=x),
        "run_recbole_kd(model=X)": lambda x: recbole_kd.run_recbole_kd(
            model=x, teacher="MF", kd="RCEKD", dataset="tiny"
        ),
        "run_recbole_kd(config_file_list=X)": lambda x: recbole_kd.run_recbole_kd(model="MF", config_file_list=x),
    }


def wrong_objects() -> dict[str, Any]:
    """Return objects that are no argument of any of them."""
    return {
        "None": None, "0": 0, "-1": -1, "1.5": 1.5, "nan": float("nan"), "text": "x", "empty text": "", "list": [1],
        "empty list": [], "dict": {"a": 1},
        "empty dict": {}, "True": True, "object": object(), "bytes": b"x", "array": np.ones(3),
        "tensor": torch.ones(2), "huge": 10**20, "function": len,
        "module": torch.nn.Linear(2, 2), "class": dict, "file": io.BytesIO(b"x"),
    }  # fmt: skip


def test_arguments_of_the_api(campaign: Record, data: Path) -> None:
    """Each wrong argument is one of our errors or is accepted, and no stream of the process is closed."""
    home = Home(campaign.folder / "api", data)
    assert home.run(home.words(kd_compare="False", epochs="1", teacher__epochs="1")).code == 0
    teacher = next(path for path in (home.cache / "teacher").iterdir() if path.is_dir())
    report = home.folder / "api.json"

    def job(words: list[str]) -> int:
        calls, wrong, found = api_calls(str(teacher), data), wrong_objects(), {}
        for call, kind in itertools.product(calls, wrong):
            try:
                calls[call](wrong[kind])
                found[f"{call}, X = {kind}"] = None
            except KDError as error:
                found[f"{call}, X = {kind}"] = None if str(error) else "an error without words"
            except BaseException as error:
                found[f"{call}, X = {kind}"] = f"{type(error).__name__}: {str(error)[:120]}"
            for number in (1, 2):
                os.fstat(number)
        report.write_text(json.dumps(found))
        return 0

    ending = home.run([], job, timeout=400)
    assert report.is_file(), ending.err[-2000:]
    for label, problem in json.loads(report.read_text()).items():
        campaign.note("fuzz of the API", label, problem)
    campaign.check("fuzz of the API")
