"""The process of one benchmark job.

``python -m recbole_kd.experiments.benchmarks.job JSON`` prints its answer as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from recbole_kd.experiments.benchmarks import cases
from recbole_kd.experiments.benchmarks.published_code import time_beside
from recbole_kd.experiments.benchmarks.sequences import time_sequences
from recbole_kd.experiments.benchmarks.wide import time_wide


def run_job(job: dict[str, Any]) -> Any:
    """Run a job and return its answer."""
    what = job.pop("what")
    if what == "sequences":
        return time_sequences(f"made-{job['size']}", "made-small", Path(job["folder"]), job["repeats"])
    if what == "wide":
        return time_wide(**job)
    if what == "machine":
        return cases.machine_rates()
    if what == "evaluation":
        return cases.evaluation_seconds(job["size"], job["folder"])
    repeats = job.pop("repeats", 0)
    if what == "peers":
        return time_beside(job["peers"], cases.Case(**job["case"]), repeats, job["steps"])
    case = cases.Case(**job)
    if what == "together":
        return cases.time_together(case, repeats)
    return {"once": cases.once, "memory": cases.memory_of}[what](case.plain() if case.kd is None else case)


if __name__ == "__main__":
    print(json.dumps(run_job(json.loads(sys.argv[1]))))
