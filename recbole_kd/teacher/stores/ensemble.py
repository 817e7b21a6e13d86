"""An ensemble of teachers behind one interface, for methods that learn from all of them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from recbole_kd.config.argument_kinds import Kind, takes
from recbole_kd.errors import TeacherError
from recbole_kd.teacher.base import TEACHER, TeacherScores


def _are_teachers(value: object) -> bool:
    return isinstance(value, Sequence) and len(value) > 0 and all(map(TEACHER.holds, value))


class SeveralTeachers(TeacherScores):
    """Several teachers made on the same data.

    A method asks each of :attr:`members`. The ensemble itself has no score.

    Args:
        teachers: the teachers in the order in which the user names them.
    """

    store = "several"

    @takes(teachers=Kind("a list of teachers, not empty", _are_teachers))
    def __init__(self, teachers: Sequence[TeacherScores]) -> None:
        first = teachers[0]
        manifest = {
            "model": ",".join(teacher.name for teacher in teachers),
            "settings": [
                {key: t.manifest.get(key) for key in ("model", "settings", "store", "dtype")} for t in teachers
            ],
        }
        data = {"data": first.manifest["data"]} if "data" in first.manifest else {}
        super().__init__(first.n_queries, first.n_items, {**manifest, **data})
        self._teachers = list(teachers)

    @property
    def members(self) -> list[TeacherScores]:
        return self._teachers

    def full(self, queries: Tensor) -> Tensor:
        raise TeacherError(f"The teachers {self.name} have no score in common: ask one of their members")
