"""Digests of everything that decides a run's results."""

from __future__ import annotations

from typing import Any

from recbole_kd.distiller.registry import distiller_class
from recbole_kd.pipeline.plan import Plan
from recbole_kd.pipeline.training_entries import RunContext, entry_of, identity, settings_alone, settings_of
from recbole_kd.storage.digests import settings_digest
from recbole_kd.storage.source_digest import own_source
from recbole_kd.version import __version__

OF_TEACHER = ("teacher_store", "teacher_dtype", "teacher_svd")


def pair_digest(plan: Plan) -> str:
    """Return a digest of a plan's data, student alone and teachers, without method and seed."""
    alone = _without_seed(settings_alone(plan.alone))
    teachers = [_entry(plan, "teacher", config, settings_alone(config)) for config in plan.teachers]
    saved = identity(plan.saved[0]) if plan.saved else {}
    kept = {key: plan.request.run[key] for key in OF_TEACHER}
    made = {"teachers": teachers, "saved": saved, "kept": kept, "version": __version__}
    return settings_digest({"student": _entry(plan, "student", plan.alone, alone), **made})


def method_digest(plan: Plan) -> str:
    """Return a digest of the distilled student's settings and method source, without its seed.

    Data and teachers are in :func:`pair_digest`.
    """
    settings = _without_seed(settings_of(plan.distilled))
    assistant = settings_of(plan.assistant) if plan.assistant else {}
    source = own_source(distiller_class(plan.request.kd))  # methods that are combined are all of ours
    return settings_digest({"settings": settings, "assistant": _without_seed(assistant), "source": source})


def _entry(plan: Plan, kind: str, config: Any, settings: dict[str, Any]) -> str:
    context = RunContext(plan.splits, plan.cache, plan.output, False, start=plan.start)
    return entry_of(context, kind, config["model"], settings).name


def _without_seed(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != "seed"}
