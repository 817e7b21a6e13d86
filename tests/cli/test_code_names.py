"""A file that names a method as module:Class would run code.

It is refused unless the user allows it on the command line.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from recbole_kd.cli.program import run_verb
from recbole_kd.cli.run import main as run
from recbole_kd.cli.tune import main as tune
from recbole_kd.config.code_names import methods_in
from recbole_kd.config.merging import merge_sources
from recbole_kd.errors import ConfigError
from recbole_kd.experiments.grid import read_grid
from recbole_kd.pipeline.quick_start import run_recbole_kd
from recbole_kd.tuning.space import read_space
from tests.support.runs import words

BOMB = "bomb_of_a_file:Method"


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that can be imported and leaves a mark when it is."""
    mark = tmp_path / "mark"
    (tmp_path / "bomb_of_a_file.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "bomb_of_a_file", raising=False)
    return mark


def _write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


GRIDS: list[dict[str, Any]] = [
    {"config": {"model": "MF", "teacher": "MF", "dataset": "tiny", "kd": BOMB}, "runs": {"a": {}}},
    {"config": {"model": "MF", "teacher": "MF", "dataset": "tiny"}, "runs": {"a": {"kd": BOMB}, "b": {"kd": "CD"}}},
]
SPACES: list[Any] = [
    {"kd": BOMB, "kd_weight": {"uniform": [1, 2]}},
    {"kd": {"choice": ["RCEKD", BOMB]}},
    {"kd": {"grid": [BOMB]}},
    {"kd_weight": {"uniform": [1, 2]}, "methods": {BOMB: {"kd_k": {"choice": [1]}}}},
    {"kd_weight": {"uniform": [1, 2]}, "methods": {"RCEKD": {"kd": {"choice": [BOMB]}}}},
    f"kd choice ['{BOMB}']\n",
    f"kd choice [{BOMB}]\n",
]


def test_a_configuration_file_is_refused(mark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = _write(tmp_path / "x.yaml", {"kd": BOMB})
    given = [word for word in words(tmp_path) if not word.startswith("--kd=")]
    for command in (run, tune):
        assert command([*given, f"--config_files={file}"]) == 2
        assert "Try --allow_code if you trust the file." in capsys.readouterr().err
    with pytest.raises(ConfigError, match=f"Invalid kd: {BOMB} in .*x.yaml"):
        run_recbole_kd(model="MF", teacher="MF", dataset="tiny", config_file_list=[str(file)])
    for over in ({"kd": "CD"}, {}):  # a key over it makes the file no better
        with pytest.raises(ConfigError, match="allow_code"):
            merge_sources([str(file)], over, {})
    assert not mark.exists()


def test_a_file_cannot_vouch_for_itself(tmp_path: Path) -> None:
    file = _write(tmp_path / "x.yaml", {"kd": BOMB, "allow_code": True})
    for allowed in ({}, {"allow_code": True}):
        with pytest.raises(ConfigError, match="a file cannot vouch for itself"):
            merge_sources([str(file)], None, allowed)
    with pytest.raises(ConfigError, match="vouch"):
        read_space(_write(tmp_path / "space.yaml", {"allow_code": True, "kd_k": {"choice": [1]}}))
    named: dict[str, Any] = {"kd": BOMB}
    for content in (
        {"config": {"allow_code": True}, "runs": {"a": named}},
        {"config": {}, "runs": {"a": {**named, "allow_code": True}}},
    ):
        with pytest.raises(ConfigError, match="vouch"):
            read_grid(_write(tmp_path / "grid.yaml", content))


def test_the_user_may_allow_it(mark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = _write(tmp_path / "x.yaml", {"kd": BOMB})
    for merged in (
        merge_sources([str(file)], None, {"allow_code": True}),
        merge_sources([str(file)], {"allow_code": True}, {}),
    ):
        assert merged == {"kd": BOMB}
    given = [word for word in words(tmp_path) if not word.startswith("--kd=")]
    assert run([*given, f"--config_files={file}", "--allow_code"]) == 2
    assert mark.exists() and "cannot be imported" in capsys.readouterr().err, (
        "the module is there and has no such class"
    )
    with pytest.raises(ConfigError, match="Invalid --allow_code='yes': expected True or False"):
        merge_sources(None, None, {"allow_code": "yes"})


def test_the_command_line_itself_may_name_code(mark: Path, tmp_path: Path) -> None:
    assert run([word for word in words(tmp_path, kd=BOMB) if not word.startswith("--kd_")]) == 2
    assert mark.exists()


@pytest.mark.parametrize("content", GRIDS)
def test_a_grid_is_refused(content: Any, mark: Path, tmp_path: Path) -> None:
    path = _write(tmp_path / "grid.yaml", content)
    with pytest.raises(ConfigError, match=f"Invalid kd: {BOMB} in .*grid.yaml.*Try --allow_code"):
        read_grid(path)
    assert run_verb("reproduce", [str(path)]) == 2 and not mark.exists()
    assert any(task.settings["kd"] == BOMB for task in read_grid(path, allow_code=True).tasks)


@pytest.mark.parametrize("content", SPACES)
def test_a_search_space_is_refused(
    content: Any, mark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _write(tmp_path / ("space.hyper" if isinstance(content, str) else "space.yaml"), content)
    with pytest.raises(ConfigError, match=f"Invalid kd: {BOMB} in .*space.*Try --allow_code"):
        read_space(path)
    assert tune([*words(tmp_path), f"--params_file={path}", "--algo=random"]) == 2
    assert "Try --allow_code" in capsys.readouterr().err and not mark.exists()
    assert read_space(path, allow_code=True).parameters


def test_methods_are_found_wherever_they_are() -> None:
    content = {
        "kd": "A",
        "x": [{"kd": ["B", {"choice": ["C"]}]}],
        "title": "a:b",
        "runs": {"c:d": {"kd": {"grid": ("D",)}}},
        "kd_k": "e:f",
    }
    assert sorted(methods_in(content)) == ["A", "B", "C", "D"]
