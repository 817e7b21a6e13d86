#!/usr/bin/env python
"""Execute the notebooks of docs/tutorials and write their outputs into them.

Example: `python scripts/run_tutorials.py docs/tutorials/*.ipynb`.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SECONDS_PER_CELL = 600
NOISE = re.compile(r"^.*Warning: .*\n(?: .*\n)*|^.*INFO util\.py.*\n\n?", re.MULTILINE)
"""Warnings of other packages, and Ray's advice on widgets."""
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def executed(path: Path, folder: Path) -> Any:
    """Return a notebook with the outputs of its cells, run in order in an empty folder.

    Args:
        path: the notebook.
        folder: working folder of the kernel. Its path is left out of the outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    with _environment(folder):
        NotebookClient(
            notebook, timeout=SECONDS_PER_CELL, kernel_name="python3",
            resources={"metadata": {"path": str(folder)}}, record_timing=False, coalesce_streams=True,
        ).execute()  # fmt: skip
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            for output in cell.outputs:
                if "text" in output:
                    output["text"] = _plain(output["text"], folder)
            cell.outputs = [output for output in cell.outputs if output.get("text") != ""]
    return notebook


@contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """Let kernels find this checkout and the programs beside this Python."""
    before = dict(os.environ)
    bins = [str(Path(sys.executable).parent), before.get("PATH", "")]
    os.environ["PATH"] = os.pathsep.join(bins)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), before.get("PYTHONPATH", "")]))
    os.environ.update(IPYTHONDIR=str(folder / ".ipython"), OMP_NUM_THREADS=before.get("OMP_NUM_THREADS", "2"))
    os.environ.update(PYDEVD_DISABLE_FILE_VALIDATION="1", PYTHONWARNINGS="ignore")  # the latter: of other packages
    os.environ.pop("RECBOLE_KD_CACHE", None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _plain(text: str, folder: Path) -> str:
    """Return a printed text without colours, others' warnings and the path of the working folder."""
    return NOISE.sub("", COLOUR.sub("", text)).replace(f"{folder}/", "").replace(str(folder), ".")


def main(paths: list[str]) -> int:
    """Execute the notebooks and write each in its place."""
    import nbformat

    for path in paths:
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(executed(Path(path), Path(folder).resolve()), path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
