"""The verdict on a run: whether distillation helped, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from math import isclose
from typing import Any

from recbole_kd.training.weight_trials import is_worthwhile

CAPS = {"epochs": "epochs", "max_minutes": "max_minutes"}
"""Keys that can end a training before its patience does."""


def verdict(result: Mapping[str, Any], *, can_search: bool = True) -> dict[str, Any]:
    """Return the verdict on a finished run, for result.json and the screen.

    Args:
        result: content of result.json: ``model``, ``kd``, ``valid_metric``, ``valid_metric_bigger``, and the metrics
            of ``teacher``, ``student`` (None if no student was trained without a teacher) and ``distilled``. A
            teacher's ``valid_as_student``, if any, stands in place of its ``valid``.
            ``kd_weight_search`` stands there only if the weight was chosen by trials.
        can_search: whether the same run is possible with ``kd_weight=auto``. If not, the verdict does not advise it.

    Returns:
        ``code`` is ``helped``, ``no_gain`` or ``unknown``, by the stopping metric on validation. ``text`` is a sentence
        on the same metric on test. ``metric`` is its name, ``valid`` and ``test`` are its values of the three models.
        ``gain`` is that of the distilled student over the student without a teacher on test, 0.12 for 12 %.
        ``share_of_teacher`` is on test, None if the teacher was ranked in another way there; ``compression`` is in
        parameters. ``warnings`` is a list of ``{code, text}``.
    """
    metric = str(result["valid_metric"])
    sides = {side: result.get(side) for side in ("teacher", "student", "distilled")}
    scores = {
        part: {side: _value(figures, part, metric) for side, figures in sides.items()} for part in ("valid", "test")
    }
    found: dict[str, Any] = {
        "code": _code(scores["valid"], bool(result["valid_metric_bigger"])),
        "metric": metric,
        **scores,
        "gain": _relative(scores["test"]["distilled"], scores["test"]["student"]),
        "share_of_teacher": _share_of_teacher(sides["teacher"], scores, metric),
        "compression": _compression(sides["teacher"] or {}, result["distilled"]),
    }
    weak = weak_teacher(result)
    of_teacher = [weak] if weak else _little_to_gain(result, scores["valid"])
    warnings = [*of_teacher, *_still_improving(result), *_weight_at_end(result)]
    return {**found, "text": _text(result, found, can_search), "warnings": warnings}


def weak_teacher(result: Mapping[str, Any]) -> dict[str, str] | None:
    """Return a warning if the teacher is not better than the plain student on validation.

    Args:
        result: see :func:`verdict`. The distilled student is not needed.

    Returns:
        ``{code, text}``, or None. The plain student is the one trained without a teacher.
    """
    metric, alone = str(result["valid_metric"]), result.get("student")
    ours, theirs = _value(result.get("teacher"), "valid", metric), _value(alone, "valid", metric)
    if ours is None or theirs is None or _better(ours, theirs, bool(result["valid_metric_bigger"])):
        return None
    last = _ended_at_last(result["teacher"])
    do = f"its best epoch was its last: raise --teacher.{last}, or choose" if last else "choose"
    text = (
        f"the teacher ({metric} {short(ours)}) is not better than {result['model']} alone ({short(theirs)}) on "
        f"validation; {do} another teacher"
    )
    return {"code": "weak_teacher", "text": text}


def _little_to_gain(result: Mapping[str, Any], valid: Mapping[str, float | None]) -> list[dict[str, str]]:
    """Return a warning if the smallest weight was taken under a teacher that is hardly better."""
    search, ours, theirs = result.get("kd_weight_search"), valid["teacher"], valid["student"]
    if not search or search.get("worthwhile", True) or ours is None or theirs is None:
        return []
    text = (
        f"the teacher ({result['valid_metric']} {short(ours)}) is better than {result['model']} alone "
        f"({short(theirs)}) on validation by 1 % at most, so the smallest kd_weight was taken; choose another teacher, "
        "or give a kd_weight"
    )
    return [{"code": "little_to_gain", "text": text}]


def worthwhile_teacher(result: Mapping[str, Any]) -> bool:
    """Return whether the teacher is better than the plain student on validation by more than 1 %.

    True if one of the scores is not known; see :func:`weak_teacher`.
    """
    metric = str(result["valid_metric"])
    ours, theirs = (_value(result.get(side), "valid", metric) for side in ("teacher", "student"))
    return ours is None or theirs is None or is_worthwhile(ours, theirs, bool(result["valid_metric_bigger"]))


def short(value: float) -> str:
    """Return a metric with four digits and no leading 0, such as .1319."""
    return f"{value:.4f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.4f}"


def _value(figures: Mapping[str, Any] | None, part: str, metric: str) -> float | None:
    of_part = (figures or {}).get(f"{part}_as_student") or (figures or {}).get(part) or {}
    found = of_part.get(metric.lower())
    return None if found is None else float(found)


def _better(one: float, other: float, bigger: bool) -> bool:
    return one > other if bigger else one < other


def _code(valid: Mapping[str, float | None], bigger: bool) -> str:
    distilled, alone = valid["distilled"], valid["student"]
    if distilled is None or alone is None:
        return "unknown"
    return "helped" if _better(distilled, alone, bigger) else "no_gain"


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None


def _share_of_teacher(
    teacher: Mapping[str, Any] | None, scores: Mapping[str, Mapping[str, float | None]], metric: str
) -> float | None:
    own, as_student = ((teacher or {}).get(part) for part in ("valid", "valid_as_student"))
    if own and as_student and not isclose(own[metric.lower()], as_student[metric.lower()], rel_tol=1e-3):
        return None
    return _ratio(scores["test"]["distilled"], scores["test"]["teacher"])


def _compression(teacher: Mapping[str, Any], student: Mapping[str, Any]) -> float | None:
    """Return the ratio of the teacher's parameters to the student's.

    None for a teacher in closed form, which has no parameters.
    """
    return _ratio(teacher.get("parameters"), student["parameters"]) or None


def _relative(one: float | None, other: float | None) -> float | None:
    ratio = _ratio(one, other)
    return None if ratio is None else ratio - 1


def _text(result: Mapping[str, Any], found: Mapping[str, Any], can_search: bool) -> str:
    name, metric = f"{result['model']} + {result['kd']}", found["metric"]
    parts = []
    if found["gain"] is not None:
        parts.append(f"{100 * found['gain']:+.0f} % {metric} on test over {result['model']} alone")
    if found["share_of_teacher"] is not None:
        parts.append(f"{100 * found['share_of_teacher']:.0f} % of the teacher")
    if found["compression"] is not None:
        parts.append(f"{_times(found['compression'])}")
    summary = f"{name}: {', '.join(parts)}." if parts else f"{name}: nothing to compare it with."
    if found["code"] == "no_gain":
        valid = found["valid"]
        auto = "--kd_weight=auto, " if can_search and not result.get("kd_weight_search") else ""
        return (
            f"KD did not help here: {name} {short(valid['distilled'])} is not above {result['model']} alone "
            f"{short(valid['student'])} in {metric} on validation. Try {auto}another --kd_weight than "
            f"{result['kd_weight']:g}, or recbole-kd tune. {summary}"
        )
    if found["code"] == "unknown":
        return f"{summary} Run with --kd_compare=True to compare with the student alone."
    return summary


def _times(compression: float) -> str:
    return f"{compression:.1f} x smaller" if compression >= 1 else f"{1 / compression:.1f} x larger"


def _ended_at_last(figures: Mapping[str, Any] | None) -> str | None:
    """Return the key that ended a training at its best epoch, or None if patience did."""
    figures = figures or {}
    ended = CAPS.get(str(figures.get("stopped_by")))
    if ended is None or figures.get("best_epoch") is None or not figures.get("epochs"):
        return None
    return ended if figures["best_epoch"] >= figures["epochs"] - 1 else None


def _still_improving(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return a warning for each training that was still improving when a cap ended it."""
    teachers = (result.get("teacher") or {}).get("members") or [result.get("teacher")]
    trainings = [
        (f"teacher {(figures or {}).get('model') or result['teacher_model']}", "teacher.", figures)
        for figures in teachers
    ]
    trainings += [(f"{result['model']} alone", "", result.get("student"))]
    trainings += [(f"{result['model']} + {result['kd']}", "", result["distilled"])]
    found = []
    for name, prefix, figures in trainings:
        key = _ended_at_last(figures)
        if key is not None:
            text = f"{name} was still improving at its last epoch ({figures['epochs']}): raise --{prefix}{key}"
            found.append({"code": "still_improving", "text": text})
    return found


def _weight_at_end(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return a warning if the weight that the trials chose is at an end of their grid."""
    search = result.get("kd_weight_search")
    if not search or not search["at_end"] or not search.get("worthwhile", True):
        return []
    tried = [weight for weight, epochs in zip(search["grid"], search["epochs"], strict=True) if epochs]
    lowest, highest = min(tried), max(tried)
    beyond = search["choice"] * (10 if search["choice"] == highest else 0.1)
    text = (
        f"the chosen kd_weight {search['choice']:g} is at an end of its grid ({lowest:g} to {highest:g}): try "
        f"--kd_weight={beyond:.3g}"
    )
    return [{"code": "weight_at_end", "text": text}]
