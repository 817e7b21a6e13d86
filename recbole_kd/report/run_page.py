"""The page of one run: verdict, table, charts by epoch, settings with their sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_kd.report.charts import Table
from recbole_kd.report.page import Page, Section, text_of
from recbole_kd.report.run_charts import run_charts
from recbole_kd.report.run_table import run_table

OF_STAGE = {"student": "Settings of the student alone", "distilled": "Settings of the distilled student"}


def run_page(result: Mapping[str, Any]) -> Page:
    """Return the page of a run.

    Args:
        result: content of result.json.
    """
    found = result.get("verdict") or {}
    distilled = result["distilled"]
    facts = [
        f"{result['dataset']}, {result['setting']} setting, seed {result['seed']}, {result['eval_protocol']} protocol. "
        f"Trained for {distilled.get('epochs', '?')} epochs, ended by {distilled.get('stopped_by') or '?'}.",
    ]
    sections = [
        Section("Results", table=run_table(result), text=facts),
        Section("Charts", charts=run_charts(result)),
        *_settings(result),
        Section("Versions and command", table=_versions(result), folded=True),
    ]
    return Page(
        f"{result['model']} + {result['kd']} under {result['teacher_model']} on {result['dataset']}",
        str(found.get("text") or "This run was made by a version without verdicts."),
        {"helped": True, "no_gain": False}.get(str(found.get("code"))),
        [str(warning["text"]) for warning in found.get("warnings") or []],
        sections,
    )


def _settings(result: Mapping[str, Any]) -> list[Section]:
    """Return a section for each training's settings.

    The run of an earlier version has one section, with the method's keys.
    """
    stages = result.get("setting_sources")
    if not stages:
        rows = [[str(key), text_of(value)] for key, value in (result.get("kd_options") or {}).items()]
        table = Table(["key", "value"], rows)
        text = ["The run was made by a version that kept no sources of its settings. These are the method's keys."]
        return [Section("Settings", table=table, text=text, folded=True)]
    return [
        Section(
            OF_STAGE.get(stage, f"Settings of the {stage}"),
            table=Table(
                ["key", "value", "from"],
                [[str(key), text_of(value), str(source)] for key, (value, source) in settings.items()],
            ),
            text=["All other keys have RecBole's defaults."],
            folded=True,
        )
        for stage, settings in stages.items()
    ]


def _versions(result: Mapping[str, Any]) -> Table:
    rows = [[str(name), text_of(value)] for name, value in (result.get("versions") or {}).items()]
    return Table(["", ""], [*rows, ["command", text_of(result.get("command") or "-")]])
