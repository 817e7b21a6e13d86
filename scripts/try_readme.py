#!/usr/bin/env python
"""Do what README.md prints in an environment that has only the wheel.

Example: `python scripts/try_readme.py dist`, with the folder of the wheel.

Every fenced line and Python block runs as printed, in an empty folder outside the checkout, with five changes that are
shown on the screen: trainings have few epochs (--epochs), a search has two trials, a comparison one seed,
`run_recbole_kd.py` (a file of the checkout) is `recbole-kd run`, and `saved/<run>` is the folder of the first run.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_DONE = {"serve": "starts a server that runs until it is stopped", "pytest": "the tests belong to the checkout"}
TRAINS = ("run", "compare", "tune")


def commands(text: str, epochs: int) -> list[tuple[str, str]]:
    """Return what the page prints, in order, as (``bash`` or ``python``, text)."""
    small = f"--epochs={epochs} --teacher.epochs={epochs}"
    found: list[tuple[str, str]] = []
    for language, block in FENCED.findall(text):
        if language == "python":
            found.append(("python", _with_few_epochs(block, epochs)))
            continue
        for line in block.splitlines() if not language else []:
            line = re.sub(r"^.*run_recbole_kd\.py", "recbole-kd run", line).partition("   #")[0]
            verb = line.split()[1] if line.startswith("recbole-kd ") else ""
            if verb and verb not in NOT_DONE:
                line = re.sub(r"--max_evals=\d+", "--max_evals=2", re.sub(r"--seed=[\d,]+", "--seed=0", line))
                found.append(("bash", f"{line} {small}" if verb in TRAINS else line))
    return found


def _with_few_epochs(block: str, epochs: int) -> str:
    lines = []
    for line in block.splitlines():
        more = f'"epochs": {epochs}, ' + (f'"teacher_config": {{"epochs": {epochs}}}, ' if '"teacher"' in line else "")
        lines.append(line.replace("config_dict={", f"config_dict={{{more}"))
    return "\n".join(lines) + "\n"


def environment_of(wheel: Path, folder: Path) -> dict[str, str]:
    """Return the variables of a new environment that has the wheel.

    Its dependencies are those of this Python.
    """
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    (site,) = (folder / "lib").glob("python*/site-packages")
    # a folder on the path: the links of editable installations in it are not followed
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--force-reinstall", str(wheel)], check=True)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RECBOLE_KD_CACHE")}
    return environment | {"PATH": f"{folder / 'bin'}{os.pathsep}{environment['PATH']}", "VIRTUAL_ENV": str(folder)}


def write_log(path: Path) -> None:
    """Write made interactions with the columns of the page."""
    rows = [
        f"u{user},i{(7 * user + step * step) % 120},{1_700_000_000 + 60 * step}"
        for user in range(60)
        for step in range(12)
    ]
    path.write_text("\n".join(["uid,sku,ts", *rows]) + "\n")


def first_run(saved: Path) -> str:
    """Return the name of the folder of the first run."""
    return min((path for path in saved.glob("MF-*-ml-100k-*") if path.is_dir()), key=os.path.getmtime).name


def main(arguments: list[str]) -> int:
    """Run all, and return 1 at the first command that fails."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dist", type=Path, help="folder with the wheel")
    parser.add_argument("--epochs", type=int, default=1, help="epochs of each training; the page leaves them out")
    given = parser.parse_args(arguments)
    (wheel,) = given.dist.resolve().glob("*.whl")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        environment, work = environment_of(wheel, Path(scratch) / "venv"), Path(scratch) / "work"
        work.mkdir()
        write_log(work / "log.csv")
        where = "import recbole_kd, sys; sys.exit(not recbole_kd.__file__.startswith(sys.prefix))"
        subprocess.run(["python", "-c", where], cwd=work, env=environment, check=True)
        for language, text in commands(README.read_text(encoding="utf-8"), given.epochs):
            if "<run>" in text:
                text = text.replace("<run>", first_run(work / "saved"))
            print(f"+ {text}", flush=True)
            words = ["python", "-c", text] if language == "python" else ["bash", "-c", text]
            done = subprocess.run(words, cwd=work, env=environment, capture_output=True, text=True)
            if done.returncode:
                print(done.stdout[-2000:], done.stderr[-4000:], f"failed with exit code {done.returncode}", sep="\n")
                return 1
    for verb, reason in NOT_DONE.items():
        print(f"not run: {verb}, {reason}")
    print(f"All that the README prints works from the wheel ({time.monotonic() - started:.0f} s).")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
