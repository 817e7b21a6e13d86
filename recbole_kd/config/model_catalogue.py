"""The models that a run can name, read from source files: RecBole and PyTorch are not imported.

An import of them takes seconds, which an answer to a typing error should not.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from recbole_kd.config.parsing import read_config_file
from recbole_kd.config.property_layers import public_name

SETTINGS = ("general", "sequential")
_OURS = Path(__file__).parents[1] / "model"
_OUR_MODELS = {
    ("MF", "general"): "mf",
    ("BM3", "general"): "bm3",
    ("HSTUGeneral", "general"): "hstu",
    ("HSTU", "sequential"): "hstu",
}
"""Class and setting -> file."""

TEACHER_FAMILIES = ("knowledge", "context")
"""Families whose models can be teachers and no students."""

OWN_DISTILLATION = "KD_DAGFM"
"""A context-aware model that is a distillation of its own, with a teacher and three phases: it cannot be a teacher."""


@dataclass(frozen=True)
class ListedModel:
    """A model as a list shows it.

    Attributes:
        name: as a user types it.
        family: ``general`` or ``sequential``, for students and teachers; ``knowledge`` or ``context``, for teachers.
        about: first line of its docstring.
    """

    name: str
    family: str
    about: str


def recbole_folder() -> Path:
    """Return the folder of RecBole's package.

    Raises:
        ModuleNotFoundError: RecBole is not installed.
    """
    spec = find_spec("recbole")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'recbole'", name="recbole")
    return Path(next(iter(spec.submodule_search_locations)))


@cache
def listed_models() -> tuple[ListedModel, ...]:
    """Return the models that a run takes as students or teachers, sorted by name in each family.

    Sequential models with a data set class of their own are left out: all models of a run share one split. So is the
    model with a distillation of its own.
    """
    found = list(_models_of_recbole())
    for (name, setting), file in _OUR_MODELS.items():
        about = dict(_classes(_OURS / f"{file}.py"))[name]
        found.append(ListedModel(public_name(name), setting, about))
    return tuple(sorted(found, key=lambda model: (model.family, model.name)))


def _models_of_recbole() -> Iterator[ListedModel]:
    """Yield RecBole's models by its folders: a model is the class that its file is named after."""
    root = recbole_folder()
    own_data = {name for name, _ in _classes(root / "data" / "dataset" / "customized_dataset.py")}
    folders = {**{name: name for name in SETTINGS}, **{name: f"{name}_aware" for name in TEACHER_FAMILIES}}
    for family, folder in folders.items():
        for path in (root / "model" / f"{folder}_recommender").glob("*.py"):
            for name, about in _classes(path):
                if name.lower() == path.stem and f"{name}Dataset" not in own_data and name != OWN_DISTILLATION:
                    yield ListedModel(name, family, about)


def recbole_model_names() -> set[str]:
    """Return every model name of RecBole and of this package, of all families."""
    root = recbole_folder()
    files = {path.stem for path in (root / "properties" / "model").glob("*.yaml")}
    return files | {model.name for model in listed_models()} | {name for name, _ in _OUR_MODELS}


def first_line(path: Path, name: str) -> str:
    """Return the first line of the docstring of a class in a source file; empty if it has none."""
    return dict(_classes(path)).get(name, "")


def _classes(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the classes of a source file, each with the first line of its docstring."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # RecBole's docstrings hold escapes that Python 3.12 warns of
        body = ast.parse(path.read_text(encoding="utf-8")).body
    for node in body:
        if isinstance(node, ast.ClassDef):
            lines = (ast.get_docstring(node) or "").strip().splitlines()
            yield node.name, lines[0].strip() if lines else ""


def recbole_defaults(model: str, dataset: str) -> dict[str, object]:
    """Return RecBole's own property values for a model and a data set, merged."""
    merged: dict[str, object] = {}
    for name in ("overall", f"model/{model}", "dataset/sample", f"dataset/{dataset}"):
        path = recbole_folder() / "properties" / f"{name}.yaml"
        if path.is_file():
            merged.update(read_config_file(path))
    return merged
