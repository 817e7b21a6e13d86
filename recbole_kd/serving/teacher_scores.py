"""Rebuilding of a run's teacher without its data set, for the ids of its student."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import get_model

from recbole_kd.errors import KDError, TeacherError
from recbole_kd.scoring.vector_models import has_vectors
from recbole_kd.serving.rebuilt_model import give_weights, rebuilt_model
from recbole_kd.serving.student_scores import ITEM_VECTORS, QUERY_VECTORS, ModelScores, StudentScores, VectorScores
from recbole_kd.storage.files import MANIFEST, SCORES, WEIGHTS, read_manifest, read_tensors
from recbole_kd.storage.json_files import read_json
from recbole_kd.teacher.export import scores_from
from recbole_kd.teacher.stores.factors import FactorScores

if TYPE_CHECKING:
    from recbole_kd.serving.student import Student

TRAINED = "trained"
"""Folder of the cache with the weights of trained teachers."""


def teacher_scores(folder: Path, student: Student) -> tuple[str, StudentScores]:
    """Return the name and the scores of a teacher, computed as a service would compute them.

    A general model whose score is a dot product scores by its final vectors. Any other is rebuilt from its weights,
    because stored scores or vectors of histories do not show its latency.

    Args:
        folder: folder of a teacher in the cache of a run.
        student: a student of the same data.

    Raises:
        TeacherError: missing, damaged, of other data, or of a model that cannot be rebuilt. The message is one
            sentence.
    """
    manifest = read_manifest(folder)
    name, sizes = manifest["model"], (len(student.users), len(student.items))
    try:
        kind = get_model(name)
    except (ValueError, ImportError):  # RecBole raises these for an unknown name
        raise TeacherError(f"The teacher's model {name} is not known here: register it first") from None
    if manifest["n_items"] != sizes[1] or manifest["n_queries"] < sizes[0]:
        raise TeacherError(
            f"The teacher {folder} is of {manifest['n_queries']} queries and {manifest['n_items']} items, the student "
            f"of {sizes[0]} users and {sizes[1]} items: name the teacher of its run"
        )
    if issubclass(kind, GeneralRecommender) and has_vectors(kind) and manifest["store"] == "factors":
        kept = scores_from(read_tensors(folder / SCORES), manifest)
        assert isinstance(kept, FactorScores)
        queries, items = kept.embeddings()
        return name, VectorScores({QUERY_VECTORS: queries.float(), ITEM_VECTORS: items.float()})
    return name, _rebuilt(folder, manifest, kind, student)


def _rebuilt(folder: Path, manifest: dict[str, Any], kind: type, student: Student) -> StudentScores:
    weights = folder / WEIGHTS if manifest["store"] == "online" else _kept_weights(folder, manifest)
    if weights is None:
        raise TeacherError(
            f"The teacher {manifest['model']} is kept as {manifest['store']}, and its weights are not in the cache: "
            "its latency cannot be measured"
        )
    has_times = bool(student.known.seen["time"].any())
    settings = manifest["settings"]
    try:
        model = rebuilt_model(kind, settings, len(student.users), len(student.items), has_times)
        give_weights(model, read_tensors(weights))
    except KDError as error:
        raise TeacherError(f"The teacher {manifest['model']} cannot be rebuilt without its data set: {error}") from None
    return ModelScores(model, settings, student.known)


def _kept_weights(folder: Path, manifest: dict[str, Any]) -> Path | None:
    """Return the cached weights of a teacher from another entry of the same cache, or None."""
    for path in sorted((folder.resolve().parent.parent / TRAINED).glob(f"*/{MANIFEST}")):
        try:
            found = read_json(path)
        except (ValueError, OSError):
            continue
        if isinstance(found, dict) and all(
            found.get(key) == manifest.get(key) for key in ("model", "settings", "data")
        ):
            return path.with_name(WEIGHTS)
    return None
