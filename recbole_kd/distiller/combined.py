"""Several methods at once, ``--kd=RCEKD+DE``: the weighted sum of their losses."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from recbole_kd.config.value_types import NonNegative
from recbole_kd.distiller.base import DistillBatch, Distiller
from recbole_kd.errors import ConfigError
from recbole_kd.ops.ragged import Ragged
from recbole_kd.scoring.base import StudentScores
from recbole_kd.teacher.base import TeacherScores

WEIGHT = "weight"
"""Option of each part: its factor in the sum."""


class Combined(Distiller):
    r"""The weighted sum of several methods' losses, :math:`L = \sum_m w_m L_m`.

    Each part is the method as it is alone: it has its own item sets, random numbers and trained modules. Options carry
    the name of their part, ``k.RCEKD`` (the key ``kd_k.RCEKD``), and :math:`w_m` is ``weight.RCEKD``, 1 by default.
    ``kd_weight`` multiplies the whole sum, and ``kd_refresh`` is that of all parts. The figures of a part are logged
    under its name, with its unweighted loss of the epoch.

    Args:
        options: the options of the parts, each with the name of its part.
    """

    parts: ClassVar[Mapping[str, type[Distiller]]] = {}
    """Method's name -> its class."""

    def __init__(self, student: StudentScores, teacher: TeacherScores, *, seed: int = 0, **options: Any) -> None:
        super().__init__(student, teacher, seed=seed)
        self.part_weights = {name: float(options.get(f"{WEIGHT}.{name}", 1.0)) for name in self.parts}
        made = {
            name: kind(student, teacher, seed=seed, **options_of(name, options)) for name, kind in self.parts.items()
        }
        self.methods = nn.ModuleDict(made)
        self._losses: dict[str, Tensor] = {}
        self._has_drawn = False

    # -- what the class says about a run ------------------------------------------------------------------------------

    @classmethod
    def options(cls) -> dict[str, inspect.Parameter]:
        """Return the options of all parts, by name."""
        found: dict[str, inspect.Parameter] = {}
        for name, kind in cls.parts.items():
            found[f"{WEIGHT}.{name}"] = inspect.Parameter(
                WEIGHT, inspect.Parameter.KEYWORD_ONLY, default=1.0, annotation=NonNegative
            )
            found |= {f"{option}.{name}": parameter for option, parameter in constructor_options(kind).items()}
        return found

    @classmethod
    def check(cls, n_queries: int, n_items: int, options: Mapping[str, Any]) -> None:
        for name, kind in cls.parts.items():
            kind.check(n_queries, n_items, options_of(name, options))

    @classmethod
    def check_student(cls, model: type) -> None:
        for kind in cls.parts.values():
            kind.check_student(model)

    @classmethod
    def check_teacher(cls, teacher: TeacherScores, options: Mapping[str, Any] | None = None) -> None:
        for name, kind in cls.parts.items():
            kind.check_teacher(teacher, None if options is None else options_of(name, options))

    @classmethod
    def needs(cls, options: Mapping[str, Any]) -> frozenset[str]:
        return frozenset().union(*(kind.needs(options_of(name, options)) for name, kind in cls.parts.items()))

    @classmethod
    def draws(cls, options: Mapping[str, Any]) -> bool:
        return any(kind.draws(options_of(name, options)) for name, kind in cls.parts.items())

    @classmethod
    def asks_student(cls, options: Mapping[str, Any]) -> bool:
        return any(kind.asks_student(options_of(name, options)) for name, kind in cls.parts.items())

    @classmethod
    def draws_unlisted(cls, options: Mapping[str, Any]) -> bool:
        return any(kind.draws_unlisted(options_of(name, options)) for name, kind in cls.parts.items())

    @classmethod
    def idle(cls, options: Mapping[str, Any]) -> Mapping[str, str]:
        return {
            f"{option}.{name}": f"{reason} of {name}"
            for name, kind in cls.parts.items()
            for option, reason in kind.idle(options_of(name, options)).items()
        }

    # -- a training ---------------------------------------------------------------------------------------------------

    def named_methods(self) -> Iterable[tuple[str, Distiller]]:
        """Yield each part with its name."""
        for name in self.parts:
            method = self.methods[name]
            assert isinstance(method, Distiller)
            yield name, method

    def begin_training(self, train_items: Ragged) -> None:
        super().begin_training(train_items)
        for _, method in self.named_methods():
            method.begin_training(train_items)
        self._collect()

    def is_due(self, epoch: int) -> bool:
        self._share_settings()
        return any(method.is_due(epoch) for _, method in self.named_methods())

    def begin_epoch(self, epoch: int, draw: bool = True) -> None:
        self._share_settings()
        self._losses = {}
        self.item_sets = {}
        for _, method in self.named_methods():
            method.begin_epoch(epoch, draw and (not self._has_drawn or method.is_due(epoch)))
        self._has_drawn = self._has_drawn or draw
        self._collect()

    def _share_settings(self) -> None:
        for _, method in self.named_methods():
            method.refresh, method.reduction = self.refresh, self.reduction
            method.weight_scale = self.weight_scale

    def _collect(self) -> None:
        self.item_sets = {
            f"{name}.{own}": ids for name, method in self.named_methods() for own, ids in method.item_sets.items()
        }

    def forward(self, batch: DistillBatch) -> Tensor:
        self._share_settings()
        total = torch.zeros((), device=batch.queries.device)
        for name, method in self.named_methods():
            own = {key.removeprefix(f"{name}."): ids for key, ids in batch.sets.items() if key.startswith(f"{name}.")}
            loss = method(replace(batch, sets=own))
            share = 1.0 if self.reduction == "sum" else batch.share
            self._losses[name] = self._losses.get(name, torch.zeros_like(total)) + share * loss.detach()
            total = total + self.part_weights[name] * loss
        return total

    def diagnostics(self) -> dict[str, float]:
        figures = {f"kd_loss.{name}": float(loss) for name, loss in self._losses.items()}
        for name, method in self.named_methods():
            figures |= {f"{figure}.{name}": value for figure, value in method.diagnostics().items()}
        return figures

    def sampling_state(self) -> dict[str, Any]:
        return {
            f"{name}.{key}": value
            for name, method in self.named_methods()
            for key, value in method.sampling_state().items()
        }

    def restore_sampling(self, state: Mapping[str, Any]) -> None:
        for name, method in self.named_methods():
            start = f"{name}."
            own = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
            method.restore_sampling(own)


def options_of(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of one part without its name, and without its weight."""
    end = f".{name}"
    own = {option.removesuffix(end): value for option, value in options.items() if option.endswith(end)}
    own.pop(WEIGHT, None)
    return own


def constructor_options(cls: type[Distiller]) -> dict[str, inspect.Parameter]:
    """Return the constructor arguments of a method that a user may set, by name."""
    parameters = inspect.signature(cls.__init__, eval_str=True).parameters
    return {
        name: p
        for name, p in parameters.items()
        if name not in ("self", "student", "teacher", "seed") and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }


def check_parts(kd: str, parts: Mapping[str, type[Distiller]], n_names: int) -> None:
    """Refuse methods that cannot be combined.

    Raises:
        ConfigError: a method is named twice, or trains an assistant, or learns from checkpoints.
    """
    if len(parts) < n_names:
        raise ConfigError(f"--kd={kd} names a method twice: name each once, and weigh it with kd_weight.METHOD")
    for name, kind in parts.items():
        if ":" in name or issubclass(kind, Combined):
            raise ConfigError(f"--kd={kd} combines {name}, which is not a method of --list: combine those alone")
        if kind.assistant or "trajectory" in kind.requires:
            what = "trains an assistant" if kind.assistant else "learns from a teacher's checkpoints"
            raise ConfigError(f"--kd={kd} combines {name}, which {what} and stands alone: leave it out")


@cache
def combined_class(kd: str, names: tuple[str, ...], kinds: tuple[type[Distiller], ...]) -> type[Combined]:
    """Return the class that combines some methods.

    Raises:
        ConfigError: they cannot be combined.
    """
    parts = dict(zip(names, kinds, strict=True))
    check_parts(kd, parts, len(names))
    content = {
        "__doc__": f"The weighted sum of {' and '.join(names)}.",
        "__module__": __name__,
        "parts": parts,
        "requires": frozenset().union(*(kind.requires for kind in kinds)),
        "needs_items": any(kind.needs_items for kind in kinds),
        "ranks_student": any(kind.ranks_student for kind in kinds),
        "in_threads": all(kind.in_threads for kind in kinds),
        "needs_set_scores": True,
        "drawn_sets": tuple(f"{name}.{own}" for name, kind in parts.items() for own in kind.drawn_sets),
    }
    return type(kd, (Combined,), content)
