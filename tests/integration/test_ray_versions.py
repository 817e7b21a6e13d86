"""Metrics reach Ray under each of the names that its versions have for the function."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from recbole_kd.integration.quick_start import install, report_by_name

METRICS = {"objective": 0.5, "epoch": 3}


def by_name(found: list[dict[str, Any]]) -> Any:
    return SimpleNamespace(report=lambda _metric=None, **figures: found.append(figures))


def as_mapping(found: list[dict[str, Any]]) -> Any:
    def report(metrics: dict[str, Any], *, checkpoint: object = None) -> None:
        found.append(metrics)

    return SimpleNamespace(report=report)


def refused(_metric: object = None, **figures: object) -> None:
    raise DeprecationWarning("use ray.train.report")


@pytest.mark.parametrize("version", ["below 2.7", "2.9", "2.40", "today"])
def test_metrics_are_reported_to_any_version(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[dict[str, Any]] = []
    tune, train = by_name(found) if version == "below 2.7" else as_mapping(found), ModuleType("ray.train")
    if version in ("2.9", "2.40"):
        train.report = tune.report  # type: ignore[attr-defined]
        tune = SimpleNamespace() if version == "2.40" else SimpleNamespace(report=refused)
    if version != "today":
        monkeypatch.setitem(sys.modules, "ray.train", train)
    report_by_name(tune, METRICS)
    assert found == [METRICS]


def test_the_import_does_not_need_rays_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """RecBole's quick start has ``ray.tune`` as ``tune``; some versions have no ``tune.report``."""
    import recbole.quick_start.quick_start as theirs

    monkeypatch.setattr(theirs, "tune", ModuleType("ray.tune"))
    install()
    assert callable(theirs.tune.report)
