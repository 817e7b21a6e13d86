"""The verdict on a run: its code by validation, its sentence by test, its warnings."""

from __future__ import annotations

from typing import Any

import pytest

from recbole_kd.pipeline.verdict import short, verdict, weak_teacher


def side(valid: float, test: float, parameters: int = 100, **more: Any) -> dict[str, Any]:
    return {"valid": {"ndcg@10": valid}, "test": {"ndcg@10": test}, "parameters": parameters, **more}


def result(**sides: Any) -> dict[str, Any]:
    asked = {"model": "MF", "kd": "RCEKD", "teacher_model": "LightGCN", "kd_weight": 5.0}
    stopping = {"valid_metric": "NDCG@10", "valid_metric_bigger": True}
    given = {"teacher": side(0.14, 0.13, 320), "student": side(0.12, 0.10), "distilled": side(0.13, 0.125)}
    return {**asked, **stopping, **given, **sides}


def test_a_gain_on_validation_is_told_by_test() -> None:
    found = verdict(result())
    assert found["code"] == "helped"
    assert found["valid"] == {"teacher": 0.14, "student": 0.12, "distilled": 0.13}
    assert found["gain"] == pytest.approx(0.25)
    assert found["share_of_teacher"] == pytest.approx(0.125 / 0.13)
    assert found["compression"] == pytest.approx(3.2)
    expected = "MF + RCEKD: +25 % NDCG@10 on test over MF alone, 96 % of the teacher, 3.2 x smaller."
    assert found["text"] == expected
    assert found["warnings"] == []


@pytest.mark.parametrize("valid", [0.12, 0.11])
def test_no_gain_on_validation_is_said_with_what_to_try(valid: float) -> None:
    found = verdict(result(distilled=side(valid, 0.2)))
    assert found["code"] == "no_gain"
    assert found["text"].startswith(f"KD did not help here: MF + RCEKD {short(valid)} is not above MF alone .1200")
    assert "Try --kd_weight=auto, another --kd_weight than 5, or recbole-kd tune" in found["text"]


def test_a_weight_that_was_chosen_by_trials_is_not_advised_again() -> None:
    search = {"grid": [0.5, 5.0, 50.0], "choice": 5.0, "at_end": False}
    found = verdict(result(distilled=side(0.11, 0.1), kd_weight_search=search))
    assert "Try another --kd_weight than 5, or" in found["text"] and found["warnings"] == []


def test_a_search_is_advised_only_where_it_is_possible() -> None:
    found = verdict(result(distilled=side(0.11, 0.1)), can_search=False)
    assert "Try another --kd_weight than 5, or recbole-kd tune" in found["text"]


@pytest.mark.parametrize(("choice", "beyond"), [(0.5, "0.05"), (50.0, "500")])
def test_a_chosen_weight_at_an_end_of_its_grid_is_a_warning(choice: float, beyond: str) -> None:
    search = {"grid": [0.05, 0.5, 5.0, 50.0], "epochs": [0, 2, 2, 2], "choice": choice, "at_end": True}
    search["worthwhile"] = True
    (warning,) = verdict(result(kd_weight_search=search))["warnings"]
    assert warning["code"] == "weight_at_end"
    assert warning["text"].endswith(f"at an end of its grid (0.5 to 50): try --kd_weight={beyond}")


def test_a_teacher_that_is_hardly_better_is_a_warning_if_the_smallest_weight_was_taken() -> None:
    search = {"grid": [0.05, 0.5, 5.0], "epochs": [9, 0, 0], "choice": 0.05, "at_end": True, "worthwhile": False}
    (warning,) = verdict(result(teacher=side(0.1205, 0.3), student=side(0.12, 0.1), kd_weight_search=search))[
        "warnings"
    ]
    assert warning["code"] == "little_to_gain" and "(.1200) on validation by 1 % at most" in warning["text"]
    (warning,) = verdict(result(teacher=side(0.119, 0.3), student=side(0.12, 0.1), kd_weight_search=search))["warnings"]
    assert warning["code"] == "weak_teacher"


def test_a_metric_that_should_be_small_turns_the_verdict() -> None:
    assert verdict(result(valid_metric_bigger=False))["code"] == "no_gain"


def test_without_the_student_alone_nothing_is_known() -> None:
    found = verdict(result(student=None))
    assert found["code"] == "unknown" and found["gain"] is None
    assert "--kd_compare=True" in found["text"]


def test_a_saved_teacher_without_metrics_is_not_compared() -> None:
    nothing = {"valid": None, "test": None, "parameters": None}
    found = verdict(result(teacher=nothing))
    assert found["share_of_teacher"] is None and found["compression"] is None and found["warnings"] == []
    assert "of the teacher" not in found["text"]


def test_a_teacher_in_closed_form_has_no_parameters_to_compare() -> None:
    found = verdict(result(teacher=side(0.14, 0.13, 0)))
    assert found["compression"] is None and found["text"].endswith("96 % of the teacher.")


def test_a_teacher_that_is_not_better_is_a_warning_that_says_what_to_do() -> None:
    weak = weak_teacher(result(teacher=side(0.11, 0.3, epochs=9, best_epoch=8, stopped_by="epochs")))
    assert weak is not None and weak["code"] == "weak_teacher"
    assert "(NDCG@10 .1100) is not better than MF alone (.1200)" in weak["text"]
    assert "raise --teacher.epochs" in weak["text"]
    patient = weak_teacher(result(teacher=side(0.12, 0.3, epochs=9, best_epoch=2, stopped_by="stopping_step")))
    assert patient is not None and "raise" not in patient["text"]


def test_a_teacher_of_another_family_is_judged_as_the_student_is_ranked() -> None:
    own = side(0.11, 0.3)
    assert weak_teacher(result(teacher=own)) is not None
    metric = next(iter(own["valid"]))
    better = own | {"valid_as_student": {metric: 0.15}}
    found = verdict(result(teacher=better))
    assert weak_teacher(result(teacher=better)) is None and found["valid"]["teacher"] == 0.15
    assert found["share_of_teacher"] is None  # on test it is known by its own ranking alone
    same = verdict(result(teacher=own | {"valid_as_student": own["valid"]}))
    assert same["share_of_teacher"] == verdict(result(teacher=own))["share_of_teacher"]


@pytest.mark.parametrize("cap", ["epochs", "max_minutes"])
def test_a_training_that_a_cap_ended_at_its_best_is_a_warning(cap: str) -> None:
    cut = {"epochs": 3, "best_epoch": 2, "stopped_by": cap}
    found = verdict(result(teacher=side(0.14, 0.13, **cut), distilled=side(0.13, 0.125, **cut)))
    texts = [warning["text"] for warning in found["warnings"]]
    assert [warning["code"] for warning in found["warnings"]] == ["still_improving"] * 2
    assert texts[0] == f"teacher LightGCN was still improving at its last epoch (3): raise --teacher.{cap}"
    assert texts[1] == f"MF + RCEKD was still improving at its last epoch (3): raise --{cap}"


def test_a_training_that_patience_ended_is_none() -> None:
    ended = {"epochs": 9, "best_epoch": 4, "stopped_by": "epochs"}
    assert verdict(result(distilled=side(0.13, 0.12, **ended)))["warnings"] == []


def test_numbers_are_short() -> None:
    assert [short(value) for value in (0.1319, 0.0, 1.0, -0.25, 12.5)] == [
        ".1319",
        ".0000",
        "1.0000",
        "-.2500",
        "12.5000",
    ]
