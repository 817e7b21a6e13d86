"""``recbole-kd plan``: print the data and settings of a run, without training."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from recbole_kd.config.merging import merge_sources
from recbole_kd.config.parsing import parse_arguments, split_config_files
from recbole_kd.errors import ConfigError
from recbole_kd.integration.compat import quiet_warnings
from recbole_kd.pipeline.data_preview import PHASES, data_preview, items_of_user
from recbole_kd.pipeline.idle_keys import idle_keys
from recbole_kd.pipeline.plan import Plan, make_plan
from recbole_kd.pipeline.request import make_request
from recbole_kd.pipeline.setting_sources import OWN, RECBOLE, Setting, settings_of_stages, sources_of

HELP = """\
Print the data and settings of a run, without training: counts, the split in words, one user's items, and the source of
each setting.

examples:
  recbole-kd plan --model=MF --teacher=LightGCN --kd=RCEKD --dataset=ml-100k
  recbole-kd plan --config_files=run.yaml --user=196 --json

  --user=NAME       print this user's training, validation and test items, in order (default: the first user)
  --json            print everything as JSON, with defaults
  --KEY=VALUE       all arguments of `recbole-kd run`
"""

WIDTH = 120


def run(words: list[str]) -> int:
    """Print the plan of a run; return 0.

    Raises:
        KDError: the run would refuse its arguments, or the user is unknown.
    """
    as_json = "--json" in words
    user, rest = _user([word for word in words if word != "--json"])
    values = parse_arguments(rest)
    if values.get("help") or not words:
        print(HELP, end="")
        return 0
    files = split_config_files(values.pop("config_files", None))
    with quiet_warnings():
        plan = make_plan(make_request(merge_sources(files, None, values)))
    for sentence in filter(None, (plan.cut, *idle_keys(plan))):
        print(f"warning: {sentence}", file=sys.stderr)
    preview = {**_names(plan), **data_preview(plan.alone, plan.splits), "user": items_of_user(plan.splits, user)}
    settings = settings_of_stages(plan, sources_of(files, values))
    if as_json:
        plain = {stage: {key: asdict(setting) for key, setting in own.items()} for stage, own in settings.items()}
        print(json.dumps({**preview, "settings": plain}, indent=2, default=str))
    else:
        print("\n".join([*_data_lines(preview), *_setting_lines(settings)]))
    return 0


def _user(words: list[str]) -> tuple[str | None, list[str]]:
    """Return the text of --user (never a number) and the other arguments."""
    named = [word.removeprefix("--user=") for word in words if word.startswith("--user=")]
    if len(set(named)) > 1 or "" in named:
        raise ConfigError(f"--user is given as {' and '.join(map(repr, named))}: name one user, such as --user=u3")
    return (named[0] if named else None), [word for word in words if not word.startswith("--user=")]


def _names(plan: Plan) -> dict[str, Any]:
    request = plan.request
    names = {"model": request.model, "teacher": plan.teacher_name, "kd": request.kd, "setting": request.setting}
    return {**names, "seed": plan.distilled["seed"], "device": str(plan.alone["device"])}


def _data_lines(preview: Mapping[str, Any]) -> list[str]:
    counts = " / ".join(f"{preview['interactions'][phase]:,}" for phase in PHASES)
    lines = [
        f"{preview['model']} + {preview['kd']} under {preview['teacher']}, {preview['setting']} setting, on "
        f"{preview['device']}",
        f"{preview['dataset']}: {preview['users']:,} users, {preview['items']:,} items, {counts} interactions (train / "
        "valid / test)",
        f"split: {preview['split']}",
        f"evaluation ranks {preview['ranked']}",
    ]
    if preview["rows_without_item"]:
        lines.append(f"warning: {preview['rows_without_item']:,} rows have no item")
    if "labels" in preview:
        lines.append(
            "labels of training rows: " + ", ".join(f"{label}: {count:,}" for label, count in preview["labels"].items())
        )
    user = preview["user"]
    lines += ["", f"user {user['user']}"]
    for phase in PHASES:
        text = f"  {phase:<6} {' '.join(user[phase]) or '(none)'}"
        lines += textwrap.wrap(text, WIDTH, subsequent_indent=" " * 9, break_long_words=False, break_on_hyphens=False)
    return lines


def _setting_lines(settings: Mapping[str, Mapping[str, Setting]]) -> list[str]:
    """Return the lines of settings that are not defaults, stage by stage.

    For the distilled student only the settings that differ from the student without a teacher are listed.
    """
    alone = settings["student"]
    lines = []
    for stage, own in settings.items():
        shown = {key: setting for key, setting in own.items() if setting.source not in (RECBOLE, OWN)}
        if stage == "distilled":
            shown = {key: setting for key, setting in shown.items() if alone.get(key) != setting}
        title = {"student": "student alone", "distilled": "distilled student, beside that"}.get(stage, stage)
        lines += ["", f"settings of the {title} (others have their defaults; --json prints all)"]
        lines += [f"  {key:<28} {setting.value!s:<40} {setting.source}" for key, setting in shown.items()]
    return lines
