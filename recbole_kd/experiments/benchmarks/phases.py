"""Seconds of an epoch by phase, measured by wrapping a trainer's methods.

The trainer, its loader, its distiller and its optimiser are wrapped. The phases are exclusive and add up to the epoch.
A backward pass goes through the KD loss first, which was computed last. It is divided at the moment when the gradient
of the base loss is known. The backward pass of what both losses share (an encoder, a graph's propagation) belongs to
the base loss.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

PHASES = (
    "topk_refresh", "sampling", "teacher_scores", "data_loading", "base_loss", "base_backward", "kd_forward",
    "kd_backward", "optimiser", "other", "evaluation",
)  # fmt: skip
"""``other`` is the time of an epoch outside all other phases. ``evaluation`` is not part of the epoch."""


class Clock:
    """Seconds by phase; a phase inside another pauses the outer one.

    Args:
        device: the clock waits for work queued on it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = 0.0

    def _turn(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def switch(self, phase: str) -> None:
        """Switch from the innermost phase to another one."""
        self._turn()
        self._open[-1] = phase

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def around(self, name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that is timed as a phase."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return plain(*args, **kwargs)

        return timed


class TimedLoader:
    """A loader that times the making of its batches."""

    def __init__(self, loader: Any, clock: Clock) -> None:
        self.loader, self.clock = loader, clock

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[Any]:
        with self.clock.phase("data_loading"):
            batches = iter(self.loader)
        while True:
            with self.clock.phase("data_loading"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch


@contextmanager
def timed(trainer: Any) -> Iterator[Clock]:
    """Time a trainer's epochs and evaluations by phase during a block."""
    clock = Clock(torch.device(trainer.device))
    with _replaced() as replace:
        replace(trainer.optimizer, "step", clock.around("optimiser", trainer.optimizer.step))
        replace(trainer.optimizer, "zero_grad", clock.around("optimiser", trainer.optimizer.zero_grad))
        replace(trainer, "evaluate", clock.around("evaluation", trainer.evaluate))
        plain_epoch = trainer._train_epoch
        distiller = getattr(trainer, "distiller", None)
        if distiller is None:
            replace(Tensor, "backward", clock.around("base_backward", Tensor.backward))
            replace(trainer.model, "calculate_loss", clock.around("base_loss", trainer.model.calculate_loss))
            replace(
                trainer,
                "_train_epoch",
                lambda data, *rest: clock.around("other", plain_epoch)(TimedLoader(data, clock), *rest),
            )
        else:
            replace(trainer, "_train_epoch", clock.around("other", plain_epoch))
            _time_distillation(trainer, distiller, clock, replace)
        yield clock


def _time_distillation(trainer: Any, distiller: Any, clock: Clock, replace: Callable[[Any, str, Any], None]) -> None:
    loader, losses = trainer._loader, trainer._losses
    replace(trainer, "_loader", TimedLoader(loader, clock))
    replace(loader, "ask_teacher", clock.around("teacher_scores", loader.ask_teacher))
    replace(distiller, "begin_epoch", clock.around("sampling", distiller.begin_epoch))
    replace(distiller.student_scorer, "top_k", clock.around("topk_refresh", distiller.student_scorer.top_k))
    replace(distiller, "forward", clock.around("kd_forward", distiller.forward))
    base_loss = trainer._base_loss
    replace(base_loss, "_of_model", clock.around("base_loss", base_loss._of_model))

    def divided(interaction: Any) -> tuple[Tensor, Tensor]:
        base, kd = losses(interaction)
        if base.requires_grad and kd.requires_grad:
            base.register_hook(lambda _: clock.switch("base_backward"))
        return base, kd

    replace(trainer, "_losses", divided)
    replace(Tensor, "backward", clock.around("kd_backward", Tensor.backward))


@contextmanager
def _replaced() -> Iterator[Callable[[Any, str, Any], None]]:
    """Yield a function that replaces attributes, and restore them at the end."""
    undo: list[tuple[Any, str, Any]] = []
    absent = object()

    def replace(owner: Any, name: str, value: Any) -> None:
        undo.append((owner, name, vars(owner).get(name, absent)))
        setattr(owner, name, value)

    try:
        yield replace
    finally:
        for owner, name, before in reversed(undo):
            if before is absent:
                delattr(owner, name)
            else:
                setattr(owner, name, before)
