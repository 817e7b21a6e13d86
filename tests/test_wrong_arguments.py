"""Every public function refuses an object of a wrong kind with one error that names the argument."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.config import Config
from recbole.quick_start import load_data_and_model
from recbole.trainer import Trainer
from recbole.utils import get_model

import recbole_kd
from recbole_kd.config import argument_kinds
from recbole_kd.config.argument_kinds import TEXT, takes
from recbole_kd.data.split_and_loaders import make_loaders, split_data
from recbole_kd.errors import ArgumentError, ConfigError, DataError, KDError, TeacherError, UnreadableFileError
from recbole_kd.integration.register import register
from recbole_kd.integration.safe_load import load_checkpoint
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.teacher.stores.dense import DenseScores
from recbole_kd.teacher.stores.ensemble import SeveralTeachers
from recbole_kd.teacher.stores.factors import FactorScores
from tests.support.helpers import dataset_of, write_tiny
from tests.support.students import place, trained

WRONG: list[Any] = [
    None, 0, -1, 1.5, float("nan"), True, "x", "", b"x", [], [1], {}, {"a": 1}, {1: 2}, object(), np.ones(1),
    torch.ones(2), 10**20, len, int,
]  # fmt: skip

KEYS = {
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "eval_args": {"order": "TO"}, "epochs": 1,
    "embedding_size": 4, "kd": "RCEKD", "kd_k": 5, "kd_n_samples": 5, "show_progress": False, "use_gpu": False,
    "topk": [10], "valid_metric": "NDCG@10",
}  # fmt: skip


def config_of(data_path: Path | str, **keys: Any) -> Config:
    return Config(model="MF", dataset="tiny", config_dict={**KEYS, "data_path": str(data_path), **keys})


@cache
def parts() -> dict[str, Any]:
    """What a right call needs, from one small run."""
    run = trained("MF")
    config = config_of(place() / "data")
    loaders = recbole_kd.prepare_data(config)
    student = get_model("MF")(config, dataset_of(loaders.train))
    folder = next(path for path in (place() / "cache" / "teacher").iterdir() if (path / "manifest.json").is_file())
    teacher = recbole_kd.load_teacher(folder, loaders.train)
    distiller = recbole_kd.build_distiller(config, student, teacher)
    return {
        "config": config, "loaders": loaders, "student": student, "folder": folder, "teacher": teacher,
        "distiller": distiller,
        "student_folder": Path(run["folder"]) / "student", "checkpoint": next(Path(run["folder"]).glob("MF.pth")),
        "splits": split_data(config),
    }  # fmt: skip


def trainer() -> recbole_kd.KDTrainer:
    made = parts()
    return recbole_kd.KDTrainer(made["config"], made["student"], made["distiller"])


def calls() -> dict[Callable[..., Any], dict[str, Any]]:
    """Public function -> arguments of a right call."""
    made = parts()
    config, student, teacher, distiller = (made[name] for name in ("config", "student", "teacher", "distiller"))
    train, valid = made["loaders"].train, made["loaders"].valid
    table = torch.ones(3, 2)
    users, items = ([str(token) for token in dataset_of(train).field2id_token[f][1:]] for f in ("user_id", "item_id"))
    shape, ids = (len(users), len(items)), {"user_ids": users, "item_ids": items, "out": None}
    return {
        recbole_kd.load_teacher: {"path": made["folder"], "dataset": train, "device": "cpu"},
        recbole_kd.build_distiller: {"config": config, "student": student, "teacher": teacher, "train_data": train},
        recbole_kd.KDTrainer: {"config": config, "model": student, "distiller": distiller},
        trainer().fit: {"train_data": train, "valid_data": valid, "callback_fn": print},
        trainer().evaluate: {"eval_data": valid},
        trainer().join: {"distiller": distiller},
        recbole_kd.distil: {"trainer": Trainer(config, student), "distiller": distiller},
        recbole_kd.teacher_loader: {"train_data": train, "teacher": teacher, "k": 5},
        recbole_kd.load_student: {"path": made["student_folder"]},
        recbole_kd.prepare_data: {"config": config},
        recbole_kd.register_model: {"model_class": type(student), "vectors": len, "keys": ["mine"]},
        recbole_kd.Scorer: {"model": student, "rows": None},
        recbole_kd.run_recbole_kd: {
            "model": "MF", "teacher": "MF", "kd": "RCEKD", "dataset": "tiny", "config_file_list": [], "config_dict": {},
            "command": "",
        },
        recbole_kd.objective_function: {"config_dict": {}, "config_file_list": [], "saved": True},
        split_data: {"config": config},
        make_loaders: {"config": config, "splits": made["splits"]},
        register: {"model_classes": [type(student)]},
        load_checkpoint: {"path": made["checkpoint"]},
        load_data_and_model: {"model_file": made["checkpoint"]},
        recbole_kd.teacher_from_lists: {
            "frame": pd.DataFrame({"user": ["u1", "u1"], "item": ["i1", "i3"], "score": [2.0, 1.0]}), "dataset": train,
            "user": "user", "item": "item", "score": "score", "rank": None, "confidence": None, "position": None,
            "temperature": 10.0,
            "unlisted": "floor", "strict": True, "out": None,
        },
        recbole_kd.teacher_from_scores: {"matrix": np.ones(shape), "dataset": train, **ids},
        recbole_kd.teacher_from_vectors: {
            "users": np.ones((shape[0], 2)), "items": np.ones((shape[1], 2)), "dataset": train, **ids,
        },
        FactorScores: {"query_vectors": table, "item_vectors": table, "manifest": {}},
        DenseScores: {"scores": table, "manifest": {}},
        SeveralTeachers: {"teachers": [teacher]},
        type(distiller): {"student": distiller.student_scorer, "teacher": teacher},
    }  # fmt: skip


RIGHT: dict[str, Callable[[Any], bool]] = {
    "train_data": lambda value: value is None,
    "rows": lambda value: value is None,
    "valid_data": lambda value: value is None,
    "callback_fn": lambda value: value is None or callable(value),
    "distiller": lambda value: value is None,
    "vectors": lambda value: value is None or callable(value),
    "keys": lambda value: isinstance(value, list) and not value,
    "manifest": lambda value: value is None or (isinstance(value, dict) and 1 not in value),
    "config_dict": lambda value: value is None or value == {},
    "config_file_list": lambda value: value in (None, [], ""),
    "command": lambda value: isinstance(value, str),
    "saved": lambda value: isinstance(value, bool),
    "user": lambda value: value is None,
    "item": lambda value: value is None,
    "score": lambda value: value is None,
    "rank": lambda value: value is None,
    "confidence": lambda value: value is None,
    "position": lambda value: value is None,
    "temperature": lambda value: not isinstance(value, bool) and value in (1, 1.5, 10**20),
    "strict": lambda value: isinstance(value, bool),
    "out": lambda value: value in (None, "x"),  # a path: the teacher would be written there
    "model_classes": lambda value: value in (None, []),
}
"""Parameter -> which of the wrong objects are right for it in some function; those are not tried."""


def is_plain(value: Any) -> bool:
    return not isinstance(value, np.ndarray | torch.Tensor)


@pytest.fixture
def _streams() -> Iterator[None]:
    """An integer that is taken for a path closes a stream; the streams are compared, and given back."""
    kept = [os.dup(number) for number in range(3)]
    before = [os.fstat(number)[:2] for number in range(3)]
    try:
        yield
        assert [os.fstat(number)[:2] for number in range(3)] == before
    finally:
        for number, copy in enumerate(kept):
            os.dup2(copy, number)
            os.close(copy)


def refusal(function: Callable[..., Any], arguments: dict[str, Any]) -> KDError | None:
    """The error of a call; None if it is accepted. Any error but ours is raised."""
    try:
        function(**arguments)
    except KDError as error:
        return error
    return None


@pytest.mark.usefixtures("_streams", "own_models")
def test_a_wrong_object_is_one_error_that_names_the_argument() -> None:
    tried = 0
    for function, right in calls().items():
        for parameter in right:
            is_right = RIGHT.get(parameter, lambda _: False)
            for value in WRONG:
                if is_plain(value) and is_right(value):
                    continue
                where = f"{function.__qualname__}({parameter}={value!r:.40})"
                error = refusal(function, {**right, parameter: value})
                assert error is not None, f"{where} is accepted"
                assert "\n" not in str(error), where
                if isinstance(error, ArgumentError):
                    assert str(error).startswith(f"Invalid {parameter}="), where
                tried += 1
    assert tried > 500


def test_every_parameter_of_every_public_function_is_tried_or_has_a_default_of_its_own() -> None:
    public = {name: getattr(recbole_kd, name) for name in recbole_kd.__all__}
    functions = {
        found
        for name, found in public.items()
        if callable(found) and not (isinstance(found, type) and issubclass(found, KDError)) and name != "Student"
    }
    tried = calls()
    assert functions <= set(tried)
    left_out = {"options", "keys", "named", "args"}
    for function in functions:
        asked = set(inspect.signature(function).parameters) - left_out
        assert asked <= set(tried[function]) | left_out, function


def student_calls() -> dict[str, dict[str, Any]]:
    users, items = ["u1", "u2"], ["i1", "i3"]
    ranked: dict[str, Any] = {"k": 3, "exclude_seen": True, "candidates": None, "exclude": None, "unknown": "error"}
    return {
        "recommend": {"users": users, **ranked},
        "recommend_for": {"histories": [items], **ranked, "times": None},
        "similar_items": {"items": items, "k": 3},
        "score": {"users": users, "items": items},
    }


@pytest.mark.parametrize("method", student_calls())
def test_a_student_refuses_wrong_objects(method: str) -> None:
    student = recbole_kd.load_student(parts()["student_folder"])
    right = student_calls()[method]
    assert set(right) == set(inspect.signature(getattr(student, method)).parameters)
    for parameter in right:
        for value in [*WRONG, [None], [[1]]]:
            empty = parameter not in ("k", "unknown") and isinstance(value, list | dict) and not value
            fits = (parameter == "k" and isinstance(value, int) and value > 1) or (
                parameter == "exclude_seen" and value is True
            )
            given_none = value is None and right[parameter] is None
            if is_plain(value) and (empty or fits or given_none):
                continue
            with pytest.raises(KDError):
                getattr(student, method)(**{**right, parameter: value})


@pytest.mark.parametrize("kd", [0, False, [], {}, [1], torch.ones(2), "none", "null", "off", "None", '""'])
def test_a_config_whose_method_is_no_name_is_refused(kd: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not the name of a method") as caught:
        config_of(tmp_path, kd=kd)
    assert not isinstance(kd, str) or "leave kd out" in str(caught.value)


def test_teachers_whose_tables_do_not_fit_are_refused() -> None:
    with pytest.raises(TeacherError, match="4 wide for queries and 5 wide for items"):
        FactorScores(torch.ones(3, 4), torch.ones(3, 5))
    with pytest.raises(TeacherError, match="at least 1"):
        FactorScores(torch.ones(3, 0), torch.ones(3, 0))
    for scores in (torch.ones(3), torch.ones(3, 4).long(), torch.ones(3, 4).bool(), np.ones((3, 4))):
        with pytest.raises(ArgumentError, match="two dimensions, of floating-point numbers"):
            DenseScores(scores)
    assert DenseScores(torch.ones(3, 4).double()).full(torch.tensor([1])).dtype == torch.float32


def test_data_of_other_users_are_refused_where_a_model_is_evaluated(tmp_path: Path) -> None:
    write_tiny(tmp_path, "tiny", n_users=25, n_items=35)
    other = recbole_kd.prepare_data(config_of(tmp_path))
    made = parts()
    for call in (
        lambda: trainer().fit(made["loaders"].train, other.valid),
        lambda: (own := trainer(), own.prepare(made["loaders"].train), own.evaluate(other.test, load_best_model=False)),
    ):
        with pytest.raises(DataError, match="are not those of the training data"):
            call()


def test_a_checkpoint_that_is_not_there_is_an_error_of_both_kinds(tmp_path: Path) -> None:
    for read in (load_checkpoint, load_data_and_model):
        for path in (tmp_path / "none.pth", tmp_path, "a\0b"):
            with pytest.raises(UnreadableFileError, match="cannot be opened") as caught:
                read(path)
            assert isinstance(caught.value, TeacherError) and isinstance(caught.value, OSError)
    torch.save({"state_dict": {}}, tmp_path / "plain.pth")
    with pytest.raises(TeacherError, match="is not a checkpoint of RecBole's Trainer"):
        load_data_and_model(tmp_path / "plain.pth")


def test_the_decorator_leaves_right_calls_and_pythons_own_errors_alone() -> None:
    @takes(text=TEXT.or_none())
    def double(text: str | None = None, *, times: int = 2) -> str:
        """Return a text twice."""
        return (text or "a") * times

    assert (double(), double("b"), double(text="b", times=3), double(None)) == ("aa", "bb", "bbb", "aa")
    assert double.__doc__ == "Return a text twice." and list(inspect.signature(double).parameters) == ["text", "times"]
    with pytest.raises(ArgumentError, match=r"Invalid text=5 of .*double: expected a text, or None\."):
        double(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unexpected keyword"):
        double(nothing=1)  # type: ignore[call-arg]
    with pytest.raises(AssertionError):
        takes(other=TEXT)(double)
    assert len(str(argument_kinds.wrong_argument("f", "x", "y" * 1000, "a text"))) < 100
    assert isinstance(Scorer.__init__.__kinds__, dict)  # type: ignore[attr-defined]
