"""Tasks of a grid or comparison, run without the processes of their own that they have elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from recbole_kd.experiments import runner


def in_this_process(monkeypatch: pytest.MonkeyPatch, before: Callable[[Any], None] = lambda task: None) -> list[str]:
    """Run tasks one after the other in this process from now on; return the names of those that ended, as they end.

    Args:
        before: called with each task before it is run.
    """
    names: list[str] = []

    def one_by_one(waiting: Any, log: Any = None) -> Any:
        for task, settings in waiting:
            before(task)
            found = runner._outcome(lambda task=task, settings=settings: runner.JOBS[task.stage](settings))
            names.append(f"{task.run} {task.seed}")
            yield (task, *found)

    monkeypatch.setattr(runner, "_one_by_one", one_by_one)
    return names
