"""The archives of a release: a wheel installed elsewhere runs every verb, a source archive holds the tests."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support import paths
from tests.support.fresh import python

pytestmark = pytest.mark.release

ROOT = paths.ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the wheel's content, away from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("recbole_kd", "properties"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    code = "import setuptools.build_meta as b, sys; print(b.build_wheel(sys.argv[1]))"
    done = python("-c", code, str(folder), cwd=source)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(folder / done.stdout.split()[-1]) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def test_all_property_files_are_packed(installed: Path) -> None:
    packed = {
        path.relative_to(installed / "recbole_kd" / "properties")
        for path in (installed / "recbole_kd" / "properties").rglob("*.yaml")
    }
    assert packed == {path.relative_to(ROOT / "properties") for path in (ROOT / "properties").rglob("*.yaml")}
    assert len(packed) >= 10


def test_runs_from_another_folder(installed: Path, tmp_path: Path) -> None:
    code = (
        "import recbole_kd; from recbole_kd.config.property_layers import properties_dir; "
        "from recbole.config import Config; "
        "print(recbole_kd.__file__); print(properties_dir()); print(Config(model='MF', dataset='ml-100k')['init_std'])"
    )
    done = python("-c", code, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(installed)})
    assert done.returncode == 0, done.stderr
    module, properties, init_std = done.stdout.strip().splitlines()[-3:]
    assert Path(module).is_relative_to(installed) and Path(properties).is_relative_to(installed)
    assert float(init_std) == 0.01


PROGRAM = """
import contextlib, io, json, sys
from pathlib import Path
from recbole_kd.cli.program import main
answers = []
for words in json.loads(sys.argv[1]):
    teacher = str(next(path for path in Path("cache/teacher").iterdir() if path.is_dir())) if "TEACHER" in words else ""
    words = [teacher if w == "TEACHER" else w for w in words]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    answers.append([code, out.getvalue(), err.getvalue()])
from recbole_kd.experiments.benchmarks.own_process import in_own_process
answers.append([0, str(in_own_process({"what": "machine"})["rate"]), ""])
print(json.dumps(answers))
"""


def test_the_program_is_installed_under_its_name(installed: Path) -> None:
    (points,) = installed.glob("recbole_kd-*.dist-info/entry_points.txt")
    assert "recbole-kd = recbole_kd.cli.program:main" in points.read_text()


def test_verbs_run_from_another_folder(installed: Path, tmp_path: Path) -> None:
    """Prepare, plan, run, lists and a grid of the package's own on made data, in one process that sees no checkout."""
    rows = ["uid,sku,ts", *(f"u{user},i{(user + 3 * place) % 20},{place}" for user in range(30) for place in range(10))]
    (tmp_path / "log.csv").write_text("\n".join(rows) + "\n")
    given = [
        "--model=MF",
        "--teacher=LightGCN",
        "--kd=RCEKD",
        "--dataset=mine",
        "--show_progress=False",
        "--epochs=1",
        "--teacher.epochs=1",
    ]
    given += ["--embedding_size=4", "--kd_k=3", "--kd_n_samples=3", "--kd_candidates=6"]
    given.append("--load_col={inter: [user_id, item_id, timestamp]}")
    commands = {
        "prepare": ["mine", "--form=table", "--file=log.csv", "--user=uid", "--item=sku", "--time=ts"],
        "plan": given, "run": given, "export-lists": ["TEACHER", "--out=lists", "--k=3"],
        "reproduce": ["citeulike-mf-mf", "--table"],
    }  # fmt: skip
    typed = [[verb, *words] for verb, words in commands.items()] + [["reproduce", "citeulike-mf-mff"]]
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "numba.py").write_text("raise ImportError('numba is an extra')\n")  # nothing to compile
    environment = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path / 'plain'}{os.pathsep}{installed}",
        "RECBOLE_KD_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    done = python("-c", PROGRAM, json.dumps(typed), cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    *answers, unknown, (_, rate, _) = json.loads(done.stdout.strip().splitlines()[-1])
    assert [code for code, _, _ in answers] == [0] * len(commands), answers
    said = dict(zip(commands, (out for _, out, _ in answers), strict=True))
    assert "mine: 30 users, 20 items" in said["plan"] and "MF + RCEKD" in said["run"]
    assert (tmp_path / "lists" / "lists.safetensors").is_file() and float(rate) > 0
    assert unknown[0] == 2 and unknown[2].startswith("error: No grid at citeulike-mf-mff")


def test_the_source_archive_holds_what_a_checkout_tests_with(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "__pycache__"))  # .venv is gigabytes
    code = "import setuptools.build_meta as b, sys; print(b.build_sdist(sys.argv[1]))"
    done = python("-c", code, str(tmp_path), cwd=source)
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / done.stdout.split()[-1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"requirements.txt", "CHANGELOG.md", "tests/conftest.py", "properties/overall.yaml", "run_recbole_kd.py"}
    assert wanted <= names
