"""A benchmark job in a separate process, with its own memory and caches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_kd.errors import TrainingError

CHECKOUT = Path(__file__).resolve().parents[3]
"""Folder that contains the package, so that the process finds it if it is not installed."""


def in_own_process(job: Mapping[str, Any]) -> Any:
    """Run one job in a new process and return its JSON answer.

    See :func:`recbole_kd.experiments.benchmarks.job.run_job`.

    Raises:
        TrainingError: the job failed. The message has the last line of its output.
    """
    command = [sys.executable, "-m", "recbole_kd.experiments.benchmarks.job", json.dumps(job)]
    path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as work:
        done = subprocess.run(command, cwd=work, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    if done.returncode:
        words = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise TrainingError(f"The benchmark's job {job['what']!r} failed: {words[:500]}")
    return json.loads(done.stdout.strip().splitlines()[-1])
