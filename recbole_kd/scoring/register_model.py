"""Registration of a user's own model: its name, its configuration keys and its vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from recbole_kd.config.argument_kinds import CLASS, FUNCTION, NAMES, takes
from recbole_kd.config.known_keys import know_keys_of
from recbole_kd.integration.register import register
from recbole_kd.scoring import vector_models

Vectors = Callable[[Any], tuple[Tensor, Tensor] | None]


@takes(model_class=CLASS, vectors=FUNCTION.or_none(), keys=NAMES)
def register_model(model_class: type, *, vectors: Vectors | None = None, keys: Iterable[str] = ()) -> None:
    """Make a model class known to RecBole and to recbole_kd, as student and as teacher.

    Every process that uses the name must register it. A repeated registration changes nothing.

    Args:
        model_class: a subclass of one of RecBole's general or sequential recommenders.
        vectors: model -> (user vectors float ``[n_users, d]``, item vectors float ``[n_items, d]``), differentiable,
            whose dot product is the model's score. If None, the model is scored by its own ``predict`` and
            ``full_sort_predict``.
        keys: names of the configuration keys that only this model reads.

    Raises:
        ConfigError: the class is not a RecBole model, or its name is taken (case is ignored).

    Examples:
        >>> class Halved(BPR):
        ...     def forward(self, user, item):
        ...         users, items = super().forward(user, item)
        ...         return users / 2, items
        >>> def halved_vectors(model):
        ...     return model.user_embedding.weight / 2, model.item_embedding.weight
        >>> recbole_kd.register_model(Halved, vectors=halved_vectors)
        >>> get_model("Halved") is Halved
        True
    """
    register([model_class])
    know_keys_of(model_class.__name__, keys)
    if vectors is not None:
        vector_models.vectors.register(model_class, vectors)
