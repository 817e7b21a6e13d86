"""The query side and the scores of a student as modules of plain tensors, for tracing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from recbole.model.general_recommender import NeuMF
from recbole.model.sequential_recommender import SASRec
from torch import Tensor, nn

from recbole_kd.errors import ConfigError
from recbole_kd.model.hstu import HSTU
from recbole_kd.model.hstu_padded import PaddedHSTU
from recbole_kd.serving.student_scores import ModelScores, StudentScores

if TYPE_CHECKING:
    from recbole_kd.serving.student import Student

BATCH, LENGTH, PAIRS = "batch", "length", "pairs"
"""Names of axes of variable size."""


@dataclass(frozen=True)
class Graph:
    """A module to be traced.

    Attributes:
        module: the module, in evaluation mode.
        inputs: name -> example.
        axes: name -> names of its axes of variable size.
        outputs: names of the module's outputs.
    """

    module: nn.Module
    inputs: dict[str, Tensor]
    axes: dict[str, tuple[str, ...]]
    outputs: tuple[str, ...]


class QueryAndScores(nn.Module):
    """A module that returns query vectors and their scores at all items.

    The vectors are float ``[B, d]``, the scores float ``[B, n_items]``, ``-inf`` for the pad.

    Args:
        query: computes the vectors.
        items: float ``[n_items, d]``, the pad first.
    """

    catalogue: Tensor

    def __init__(self, query: nn.Module, items: Tensor) -> None:
        super().__init__()
        self.query = query
        self.register_buffer("catalogue", items[1:].T.contiguous())

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        vectors = self.query(*inputs)
        return vectors, nn.functional.pad(vectors @ self.catalogue, (1, 0), value=-torch.inf)


class Rows(nn.Module):
    """A module that looks up rows of a table: int64 ``[B]`` -> float ``[B, d]``."""

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table)

    def forward(self, user: Tensor) -> Tensor:
        return self.table[user]


class Method(nn.Module):
    """A module that calls a function of a model and the inputs."""

    def __init__(self, model: nn.Module, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(self.model, *inputs)


def _neumf(model: Any, user: Tensor, item: Tensor) -> Tensor:
    return torch.sigmoid(NeuMF.forward(model, user, item))


MODELS = (SASRec, HSTU, NeuMF)
"""Models that are exported as models. All others with final vectors are exported as vectors."""


def graph_of(student: Student) -> Graph:
    """Return the graph of a student to be traced.

    Raises:
        ConfigError: the model has no known forward of plain tensors.
    """
    scores = student.scores
    model = scores.model if isinstance(scores, ModelScores) else None
    if model is None:
        users = torch.arange(len(student.users))
        return _with_scores(
            scores, Rows(scores.user_vectors(users)), {"user": torch.tensor([1, 1])}, {"user": (BATCH,)}
        )
    check_model(student)
    if type(model) is NeuMF:
        inputs = {"user": torch.tensor([1, 1]), "item": torch.tensor([1, 1])}  # separate tensors, so separate inputs
        return Graph(Method(model, _neumf).eval(), inputs, dict.fromkeys(inputs, (PAIRS,)), ("score",))
    history = {"items": torch.tensor([[1, 1, 1], [1, 1, 0]]), "lengths": torch.tensor([3, 2])}
    axes: dict[str, tuple[str, ...]] = {"items": (BATCH, LENGTH), "lengths": (BATCH,)}
    if type(model) is SASRec:
        return _with_scores(scores, Method(model, SASRec.forward), history, axes)
    if model.has_times:
        kind = student.known.seen["time"].dtype
        history |= {"times": torch.zeros(2, 3, dtype=kind), "asked": torch.zeros(2, dtype=kind)}
        axes |= {"times": (BATCH, LENGTH), "asked": (BATCH,)}
    return _with_scores(scores, PaddedHSTU(model.encoder, model.has_times), history, axes)


def check_model(student: Student) -> None:
    """Refuse a student whose model cannot be traced (ConfigError)."""
    scores = student.scores
    if isinstance(scores, ModelScores) and type(scores.model) not in MODELS:
        others = "export it to npz, faiss or int8" if scores.has_vectors else "the other forms need vectors"
        raise ConfigError(
            f"The form onnx supports {', '.join(kind.__name__ for kind in MODELS)} and models with final vectors of "
            f"users and items, not {student.config['model']}: {others}"
        )


def _with_scores(
    scores: StudentScores, query: nn.Module, inputs: dict[str, Tensor], axes: dict[str, tuple[str, ...]]
) -> Graph:
    module = QueryAndScores(query, scores.item_vectors()).eval()
    return Graph(module, inputs, axes, ("vector", "scores"))
