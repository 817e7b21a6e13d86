"""The charts of one run, from its result.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recbole_kd.report.charts import (
    ALONE,
    DISTILLED,
    MARK,
    OTHERS,
    TEACHER,
    Chart,
    Series,
    Table,
    Values,
    axes,
    band_chart,
    finite,
    line_chart,
    log_if_wide,
    number,
    plain,
)

EPOCH = "epoch"
LOSSES = ("base_loss", "kd_loss", "weighted_kd_loss")
LOG = " (log)"
QUARTILES = ("q25", "q50", "q75")

History = Mapping[str, Values]


def run_charts(result: Mapping[str, Any]) -> list[Chart]:
    """Return the charts that a run has numbers for.

    Args:
        result: content of result.json.
    """
    history = history_of(result["distilled"])
    found = [
        test_bars(result), validation(result, history), losses(history),
        overlap(history), gamma(history), coverage(history),
        bound(history), teacher_list(history), teacher_ranks(result), grad_ratio(history),
        *others(history),
    ]  # fmt: skip
    return [chart for chart in found if chart is not None]


def history_of(figures: Mapping[str, Any]) -> dict[str, list[float | None]]:
    """Return the metrics by epoch that have at least one number."""
    given = figures.get("history") or {}
    found = {str(name): finite(values) for name, values in given.items()}
    return {name: values for name, values in found.items() if any(value is not None for value in values)}


def sides_of(result: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Return (name, colour, metrics) of the teacher and both students, as far as present."""
    sides = [
        (f"teacher {result['teacher_model']}", TEACHER, result.get("teacher")),
        (f"{result['model']} alone", ALONE, result.get("student")),
        (f"{result['model']} + {result['kd']}", DISTILLED, result["distilled"]),
    ]
    return [(name, colour, figures) for name, colour, figures in sides if figures]


def test_bars(result: Mapping[str, Any]) -> Chart | None:
    """Return bars of all test metrics of the teacher and both students."""
    sides = [(name, colour, figures["test"]) for name, colour, figures in sides_of(result) if figures.get("test")]
    metrics = list(result["distilled"]["test"])
    if not metrics:
        return None
    traces: list[Mapping[str, Any]] = [
        {
            "type": "bar", "name": plain(name), "x": [plain(metric) for metric in metrics],
            "y": finite([test.get(metric) for metric in metrics]), "marker": {"color": colour},
        }
        for name, colour, test in sides
    ]  # fmt: skip
    rows = [[metric, *(number(test.get(metric)) for _, _, test in sides)] for metric in metrics]
    gain = (result.get("verdict") or {}).get("gain")
    metric = (result.get("verdict") or {}).get("metric", result["valid_metric"])
    told = f"{100 * gain:+.0f} % {metric} over the student alone" if gain is not None else f"{metric} and the others"
    return Chart(
        f"Test metrics: distillation gives {told}" if gain is not None else f"Test metrics: {told}",
        traces,
        axes("test metric", "value, 0 to 1" if _are_shares(sides) else "value", barmode="group"),
        Table(["metric", *(name for name, _, _ in sides)], rows),
        "Of the epoch that is best by validation.",
    )


def _are_shares(sides: Sequence[tuple[str, str, Mapping[str, Any]]]) -> bool:
    """Return whether all metrics are ranking metrics between 0 and 1."""
    ranking = ("recall", "ndcg", "mrr", "hit", "precision", "map")
    return all(name.startswith(ranking) for _, _, test in sides for name in test)


def validation(result: Mapping[str, Any], history: History) -> Chart | None:
    """Return the validation metric by epoch, with the best epoch and the two other models' best values."""
    key = next((name for name in history if name.startswith("valid_")), None)
    if key is None:
        return None
    values, metric = history[key], key.removeprefix("valid_")
    x = list(range(1, len(values) + 1))
    series = [Series(f"{result['model']} + {result['kd']}", values, DISTILLED)]
    for name, colour, figures in sides_of(result)[:-1]:
        level = finite([(figures.get("valid") or {}).get(metric)])[0]
        if level is not None:
            series.append(Series(f"{name}, best", [level] * len(x), colour, "dash", {"mode": "lines"}))
    best = result["distilled"].get("best_epoch")
    shown = str(result.get("valid_metric") or metric)
    if not isinstance(best, int) or not 0 <= best < len(values):
        return line_chart(f"Validation {shown} by epoch", x, series, (EPOCH, f"validation {shown}"))
    mark = {"mode": "markers", "marker": {"size": 12, "symbol": "star", "color": MARK}}
    only_best = [value if place == best else None for place, value in enumerate(values)]
    series.append(Series(f"best epoch, {best + 1}", only_best, MARK, more=mark))
    return line_chart(
        f"Validation {shown} is best in epoch {best + 1} of {len(values)}: {number(values[best])}",
        x, series, (EPOCH, f"validation {shown}"), "The weights of the best epoch are kept.", hovermode="x unified",
    )  # fmt: skip


def losses(history: History) -> Chart | None:
    """Return the student's own loss and the weighted KD loss by epoch."""
    names = {"base_loss": "the student's own loss", "weighted_kd_loss": "KD loss x its weight"}
    found = {name: history[name] for name in names if name in history}
    if not found:
        return None
    colours = {"base_loss": ALONE, "weighted_kd_loss": DISTILLED}
    series = [Series(names[name], values, colours[name]) for name, values in found.items()]
    told = ", ".join(f"{names[name]} {_from_to(values)}" for name, values in found.items())
    scale = log_if_wide([value for values in found.values() for value in values])
    label = "loss, sum over batches" + LOG * bool(scale)
    note = "Each is the sum over the batches of an epoch."
    return line_chart(f"Losses in training: {told}", _epochs(found), series, (EPOCH, label), note, yaxis=scale)


def overlap(history: History) -> Chart | None:
    """Return the quartiles over users of the overlap of the two lists."""
    return _quartiles(
        history, "overlap", "Overlap of the student's and the teacher's lists", "overlap, share of the list",
        "Over all users. With an exponential gamma, gamma follows from this share.",
    )  # fmt: skip


def gamma(history: History) -> Chart | None:
    """Return the quartiles over users of gamma."""
    return _quartiles(
        history, "gamma", "Gamma, the weight of the teacher's items that the student misses", "gamma, 0 to 1",
        "Over all users. The rest, 1 - gamma, weighs the student's own top list. Gamma falls as the overlap grows.",
    )  # fmt: skip


def _quartiles(history: History, name: str, words: str, label: str, note: str) -> Chart | None:
    keys = [f"{name}_{part}" for part in QUARTILES]
    if any(key not in history for key in keys):
        return None
    low, middle, high = (history[key] for key in keys)
    title = f"{words}: median {_from_to(middle)}"
    return band_chart(title, _epochs(history), (low, middle, high), (EPOCH, label), note)


def coverage(history: History) -> Chart | None:
    """Return the overlap rate, the closure share and the mean share of the teacher's list by epoch."""
    names = {
        "overlap_rate": "overlap rate of the sampled set, mean",
        "closure_share": "users whose sampled set is closed",
        "list_overlap": "teacher's list in the student's list, mean",
    }
    found = {name: history[name] for name in names if name in history}
    if not found:
        return None
    series = [Series(names[name], values, OTHERS[place]) for place, (name, values) in enumerate(found.items())]
    told = ", ".join(f"{names[name]} {number(_last(values))}" for name, values in found.items())
    return line_chart(
        f"Overlap rate and closure at the end: {told}", _epochs(found), series, (EPOCH, "share, 0 to 1"),
        "The overlap rate is the share of a user's set, A, in the student's top |A|; at 1 the set is closed.",
    )  # fmt: skip


def bound(history: History) -> Chart | None:
    """Return the partial NDCG on the student's top list, its bound and the gap (Theorem 4.4)."""
    names = {"closed_ndcg": "partial NDCG", "closed_bound": "its bound, exp(-cross-entropy)", "closed_gap": "gap"}
    if any(name not in history for name in names):
        return None
    colours = (DISTILLED, ALONE, MARK)
    series = [Series(names[name], history[name], colour) for name, colour in zip(names, colours, strict=True)]
    return line_chart(
        f"Partial NDCG on the student's own top list {_from_to(history['closed_ndcg'])}, "
        f"its bound {_from_to(history['closed_bound'])}",
        _epochs(history), series, (EPOCH, "value, 0 to 1"),
        "Theorem 4.4: on a closed set the NDCG is at least exp(-CE), so that a lower cross-entropy lifts it. Gains are "
        "the teacher's softmax; means over at most 1,000 users and 50 items each.",
    )  # fmt: skip


def teacher_list(history: History) -> Chart | None:
    """Return the partial NDCG on the teacher's top list, and how often that list is closed."""
    names = {"teacher_list_ndcg": "partial NDCG, mean", "teacher_list_closed": "share of users for whom it is closed"}
    if any(name not in history for name in names):
        return None
    colours = (DISTILLED, MARK)
    series = [Series(names[name], history[name], colour) for name, colour in zip(names, colours, strict=True)]
    return line_chart(
        f"Partial NDCG on the teacher's top list: {_from_to(history['teacher_list_ndcg'])}",
        _epochs(history), series, (EPOCH, "value, 0 to 1"),
        "This is what the student should learn. The list is closed if the student ranks exactly its items first; only "
        "then does the cross-entropy on the list bound this NDCG.",
    )  # fmt: skip


def teacher_ranks(result: Mapping[str, Any]) -> Chart | None:
    """Return the student's mean rank of each place of the teacher's list, before and after training."""
    ranks = result["distilled"].get("teacher_ranks") or {}
    start, end = finite(ranks.get("start") or []), finite(ranks.get("end") or [])
    if not start or len(start) != len(end):
        return None
    x = list(range(1, len(start) + 1))
    series = [Series("before training", start, ALONE), Series("after training", end, DISTILLED)]
    scale = log_if_wide([*start, *end])
    return line_chart(
        f"The student's rank of the teacher's first item: {number(start[0])} before, {number(end[0])} after training",
        x, series, ("place in the teacher's list", "mean rank by the student" + LOG * bool(scale)),
        "1 is the top; mean over users. A perfect imitation is the diagonal.", yaxis=scale,
    )  # fmt: skip


def grad_ratio(history: History) -> Chart | None:
    """Return the ratio of the gradients of the KD loss and the student's own loss by epoch."""
    values = history.get("grad_ratio")
    if values is None:
        return None
    scale = log_if_wide(values)
    return line_chart(
        f"The KD gradient is {number(_first(values))} times the student's own at the start, {number(_last(values))} "
        "at the end",
        _epochs({"": values}), [Series("gradient ratio", values, DISTILLED)],
        (EPOCH, "gradient norm, KD / own" + LOG * bool(scale)),
        "Far above 1 the teacher alone is followed, far below 1 it is ignored: --kd_weight shifts the ratio.",
        yaxis=scale,
    )  # fmt: skip


def others(history: History) -> list[Chart]:
    """Return a chart for each further metric of the method, by epoch."""
    shown = {*LOSSES, "overlap_rate", "closure_share", "list_overlap", "grad_ratio"}
    shown |= {"closed_ndcg", "closed_bound", "closed_gap", "teacher_list_ndcg", "teacher_list_closed"}
    shown |= {f"{name}_{part}" for name in ("overlap", "gamma") for part in (*QUARTILES, "mean")}
    valid = next((name for name in history if name.startswith("valid_")), None)
    rest = {name: values for name, values in history.items() if name not in shown and name != valid}
    return [
        line_chart(
            f"{name} by epoch: {_from_to(values)}",
            _epochs({"": values}), [Series(name, values, DISTILLED)], (EPOCH, name),
        )
        for name, values in rest.items()
    ]  # fmt: skip


def _epochs(history: History) -> list[float]:
    return list(range(1, max(len(values) for values in history.values()) + 1))


def _from_to(values: Values) -> str:
    return f"{number(_first(values))} to {number(_last(values))}"


def _known(values: Values) -> list[float]:
    return [value for value in values if value is not None]


def _first(values: Values) -> float | None:
    return next(iter(_known(values)), None)


def _last(values: Values) -> float | None:
    return next(reversed(_known(values)), None)
