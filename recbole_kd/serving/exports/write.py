"""Writing of a student in other forms, each read again and compared with the student."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_kd.config.argument_kinds import NAMES, PATH, TEXT, Kind, takes
from recbole_kd.errors import ConfigError
from recbole_kd.serving.exports.exported import Form
from recbole_kd.serving.exports.faiss_index import Faiss
from recbole_kd.serving.exports.npz import Int8, Npz
from recbole_kd.serving.exports.onnx_form import Onnx
from recbole_kd.serving.exports.parity import parity, refuse_difference
from recbole_kd.storage.files import FILES, WEIGHTS, write_json, written_whole
from recbole_kd.storage.places import user_path

if TYPE_CHECKING:
    from recbole_kd.serving.student import Student

PARITY = "parity.json"
FORMS = ("npz", "faiss", "onnx", "int8")
FORM_NAMES = Kind("names of forms, as a list or as text with commas", lambda to: TEXT.holds(to) or NAMES.holds(to))


@takes("export", to=FORM_NAMES, out=PATH)
def write_exports(student: Student, to: str | Iterable[str], out: str | Path, index: str = "flat") -> dict[str, Any]:
    """Write forms of a student into a folder, each in its own subfolder, with parity.json.

    The folder appears when all forms have been compared with the student. After an error nothing is written.

    Args:
        student: the student.
        to: names of :data:`FORMS`, as a list or as text with commas.
        out: a missing or empty folder.
        index: index of the form faiss: ``flat``, ``hnsw`` or ``ivf``.

    Returns:
        The content of parity.json: ``student``, and for each form its bytes and the result of
        :func:`recbole_kd.serving.exports.parity.parity`.

    Raises:
        ConfigError: an unknown form, one that the student does not have, or a missing package.
        StudentError: a form differs from the student.
        TargetError: the folder is not empty.
    """
    forms = [_form(name, index) for name in form_names(to)]
    for form in forms:
        form.check(student)
    config = student.config
    content: dict[str, Any] = {
        "student": {
            **{key: config.get(key) for key in ("model", "dataset", "seed", "eval_protocol", "versions")},
            "bytes": config[FILES][WEIGHTS]["size"],
        },
        "forms": {},
    }
    with written_whole(user_path(out, "out")) as temporary:
        for form in forms:
            content["forms"][form.name] = _written(student, form, temporary / form.name)
        write_json(temporary / PARITY, content)
    return content


def _written(student: Student, form: Form, folder: Path) -> dict[str, Any]:
    """Write one form, compare it with the student, and return its entry of parity.json."""
    folder.mkdir()
    form.write(student, folder)
    found = parity(student, form.read(student, folder))
    if form.exact:
        refuse_difference(form.name, found)
    kind = {"index": form.kind} if isinstance(form, Faiss) else {}
    return {**kind, "exact": form.exact, "bytes": sum(path.stat().st_size for path in folder.iterdir()), **found}


def form_names(to: str | Iterable[str], option: str = "to") -> list[str]:
    """Return the names of forms, each once.

    Args:
        to: a list, or text with commas.
        option: name of the option in an error.

    Raises:
        ConfigError: names the first unknown form.
    """
    names = list(dict.fromkeys(to.split(",") if isinstance(to, str) else to))
    wrong = [name for name in names if name not in FORMS]
    if wrong or not names:
        given = wrong[0] if wrong else "nothing"
        raise ConfigError(f"Invalid {option}={given}: expected some of {', '.join(FORMS)}. Try {option}=npz,onnx.")
    return names


def _form(name: str, index: str) -> Form:
    kinds: dict[str, Callable[[], Form]] = {"npz": Npz, "faiss": partial(Faiss, index), "onnx": Onnx, "int8": Int8}
    return kinds[name]()
