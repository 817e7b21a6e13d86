"""A method of the user's own that cannot be used is refused before anything is trained, in a sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from recbole_kd.distiller.registry import distiller_class
from recbole_kd.errors import ConfigError

HEAD = "from recbole_kd.distiller.base import Distiller\n"
FORWARD = "    def forward(self, batch):\n        return batch.users.sum() * 0.0\n"
MODULES = {
    "no seed": (f"{HEAD}class Mine(Distiller):\n    def __init__(self, student, teacher):\n        pass\n{FORWARD}",
                "takes student, teacher and seed=0"),
    "no teacher": (f"{HEAD}class Mine(Distiller):\n    def __init__(self, *, seed=0):\n        pass\n{FORWARD}",
                "takes student, teacher and seed=0"),
    "unknown annotation": (
        f"{HEAD}class Mine(Distiller):\n    def __init__(self, student, teacher, *, x: 'Nowhere' = 1, seed: int = 0):\n"
        f"        pass\n{FORWARD}",
        "Nowhere",
    ),
    "no forward": (f"{HEAD}class Mine(Distiller):\n    pass\n", "has no forward"),
    "no Python": ("class Mine(:\n", "SyntaxError"),
    "an error of its own": ("1 / 0\n", "ZeroDivisionError: division by zero"),
    "no such class": (HEAD, "cannot be imported"),
    "no distiller": ("class Mine:\n    pass\n", "is not a subclass of"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "said"), MODULES.values(), ids=MODULES)
def test_what_is_no_method_is_a_sentence(text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_of_a_test.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("mine_of_a_test", None)
    with pytest.raises(ConfigError) as error:
        distiller_class("mine_of_a_test:Mine")
    assert (
        said in str(error.value)
        and str(error.value).startswith("--kd=mine_of_a_test:Mine ")
        and "\n" not in str(error.value)
    )


def test_one_that_takes_what_it_is_given_is_a_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_of_a_test.py").write_text(f"{HEAD}class Mine(Distiller):\n{FORWARD}")
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("mine_of_a_test", None)
    assert distiller_class("mine_of_a_test:Mine").__name__ == "Mine"


def test_a_module_of_the_working_folder_is_found_by_an_installed_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of the installed program, not the working folder, is the first entry of sys.path."""
    (tmp_path / "working_folder_method.py").write_text(
        "from recbole_kd.distiller.cd import CD\n\n\nclass Mine(CD):\n    pass\n"
    )
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place and Path(place) != tmp_path])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with pytest.raises(ConfigError, match=r"No module named 'working_folder_method'.*in the working folder"):
        distiller_class("working_folder_method:Mine")
    monkeypatch.chdir(tmp_path)
    assert distiller_class("working_folder_method:Mine").__name__ == "Mine"
