"""Export of a trained student as a folder that any machine can load.

See :mod:`recbole_kd.serving.student_files`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from recbole.model.abstract_recommender import GeneralRecommender, SequentialRecommender
from safetensors.torch import save_file
from torch import Tensor

from recbole_kd.errors import StudentError
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.serving.known_interactions import TestedWith, seen_columns
from recbole_kd.serving.model_card import model_card
from recbole_kd.serving.rebuilt_model import safe_settings
from recbole_kd.serving.student import MODEL, VECTORS, load_student
from recbole_kd.serving.student_files import CARD, CONFIG, FORMAT, ITEMS, SEEN, TRAINED, USERS
from recbole_kd.serving.student_scores import ITEM_VECTORS, QUERY_VECTORS, ModelScores
from recbole_kd.storage.files import WEIGHTS, save_weights, write_manifest, written_whole

COMPARED_USERS = 64
"""Number of users that are scored by the trained model and by the exported student, for comparison."""
TOLERANCE = 1e-4
"""Largest difference of their scores, in units of the largest score."""


def pack_student(
    folder: Path,
    model: Any,
    config: Any,
    settings: Mapping[str, Any],
    parts: Sequence[Any],
    about: Mapping[str, Any],
    table: str,
) -> None:
    """Write a trained student, and check that the exported student gives the model's scores.

    Args:
        folder: missing or empty.
        model: a RecBole general or sequential recommender.
        config: its Config.
        settings: plain values of the Config.
        parts: (train, valid, test) of the split.
        about: metrics, versions and names for config.json.
        table: the result table of the run.

    Raises:
        StudentError: the model cannot be built without its data set, or its scores are not finite, or it is of another
            family.
    """
    if not isinstance(model, GeneralRecommender | SequentialRecommender):
        raise StudentError(
            f"{type(model).__name__} is not a general or sequential recommender: only these can be exported without "
            "their data set"
        )
    seen = seen_columns(parts)
    form = VECTORS if isinstance(model, GeneralRecommender) and Scorer(model).has_vectors else MODEL
    content = {
        "format": FORMAT, **about, "model": type(model).__name__,
        "model_class": f"{type(model).__module__}.{type(model).__qualname__}",
        "form": form, "n_users": int(parts[0].user_num), "n_items": int(parts[0].item_num),
        "has_times": bool(getattr(model, "has_times", False)), "settings": safe_settings(settings),
        "protocol": vars(TestedWith.of(config, isinstance(model, SequentialRecommender))),
    }  # fmt: skip
    with written_whole(folder) as temporary:
        if form == VECTORS:
            vectors = _vectors(model)
            save_file(vectors, temporary / WEIGHTS)
            content["weights"] = _save_trained(temporary / TRAINED, model, vectors)
        else:
            save_weights(temporary / WEIGHTS, model)
        save_file(seen, temporary / SEEN)
        for name, field in ((USERS, parts[0].uid_field), (ITEMS, parts[0].iid_field)):
            _write_text(
                temporary / name,
                json.dumps([str(token) for token in parts[0].field2id_token[field]], ensure_ascii=False),
            )
        _write_text(temporary / CARD, model_card(content, table))
        write_manifest(temporary, content, CONFIG)
        _compare(temporary, model)


def _vectors(model: Any) -> dict[str, Tensor]:
    scorer = Scorer(model)
    with scorer.frozen():
        tables = [table.detach().cpu() for table in scorer.tables()]
    found = dict(zip((QUERY_VECTORS, ITEM_VECTORS), tables, strict=True))
    return {name: table.contiguous().clone() for name, table in found.items()}


def _save_trained(path: Path, model: Any, vectors: Mapping[str, Tensor]) -> dict[str, str | None]:
    """Write the weights that are none of the vectors, if there are any.

    Returns:
        The name of each weight -> the name of the vectors that it equals, or None if it was written.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    sources = {
        name: next((given for given, table in vectors.items() if torch.equal(tensor, table)), None)
        for name, tensor in weights.items()
    }
    apart = {name: weights[name].clone() for name, source in sources.items() if source is None}
    if apart:
        save_file(apart, path)
    return sources


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _compare(folder: Path, model: Any) -> None:
    """Refuse an exported student whose scores differ from the model's (StudentError)."""
    student = load_student(folder)
    users = torch.arange(1, min(len(student.users), COMPARED_USERS + 1))
    rows = student.scores.rows_of_users(users, as_tested=True) if isinstance(student.scores, ModelScores) else None
    scorer = Scorer(model, rows)
    with student.scores.of_users(users, as_tested=True) as full, scorer.frozen():
        written = full(torch.arange(len(users)))[:, 1:].clone()
        asked = users if rows is None else torch.arange(len(users))
        trained = scorer.full(asked.to(scorer.device))[:, 1:].cpu()
    if not bool(torch.isfinite(trained).all()):
        raise StudentError(f"The scores of {type(model).__name__} are inf or nan")
    if float((written - trained).abs().max()) > TOLERANCE * float(trained.abs().max()):
        raise StudentError(
            f"{type(model).__name__} depends on more of its data set than its weights contain: rebuilt without the "
            "data, it gives other scores"
        )
