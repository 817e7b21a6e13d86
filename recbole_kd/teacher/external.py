"""Teachers from outside: ranked lists, scores and vectors of any other system."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor

from recbole_kd.config.argument_kinds import DATA, NUMBER, PATH, TEXT, YES_OR_NO, Kind, instance_of, takes
from recbole_kd.data.histories.position_queries import PositionQueries
from recbole_kd.data.recbole_split import fingerprint_of
from recbole_kd.errors import ConfigError, TeacherError
from recbole_kd.storage.files import FORMAT, SCORES, write_manifest, written_whole
from recbole_kd.storage.targets import check_folder
from recbole_kd.teacher.base import TeacherScores
from recbole_kd.teacher.coverage import LISTED_USERS
from recbole_kd.teacher.export import COVERED, scores_from
from recbole_kd.teacher.list_builder import TEMPERATURE, ListBuilder, known_ids, left_out, source_rows
from recbole_kd.teacher.stores.lists import FLOOR, MASK, UNLISTED
from recbole_kd.teacher.stores.remapped import N_USERS
from recbole_kd.teacher.tables import Columns, chunks_of, find_columns, names_in, numbers_of, texts_of

Matrix = np.ndarray | Tensor
MATRIX = Kind("a matrix of real numbers, as a NumPy array or a tensor", lambda value: _is_matrix(value))
IDS = Kind("a list of ids", lambda value: _are_ids(value))


def _is_matrix(value: object) -> bool:
    if isinstance(value, Tensor):
        return value.dim() == 2 and not value.is_complex() and value.dtype != torch.bool
    return isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype.kind in "iuf"


def _are_ids(value: object) -> bool:
    if isinstance(value, np.ndarray | pd.Series | pd.Index):
        return value.ndim == 1
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        return False
    return all(isinstance(one, str | int | np.integer) and not isinstance(one, bool) for one in value)


@takes(
    frame=instance_of(pd.DataFrame, words="a pandas DataFrame"), dataset=DATA, user=TEXT.or_none(), item=TEXT.or_none(),
    score=TEXT.or_none(), rank=TEXT.or_none(), confidence=TEXT.or_none(), position=TEXT.or_none(), temperature=NUMBER,
    unlisted=TEXT, strict=YES_OR_NO, out=PATH.or_none(),
)  # fmt: skip
def teacher_from_lists(
    frame: pd.DataFrame,
    dataset: Any,
    *,
    user: str | None = None,
    item: str | None = None,
    score: str | None = None,
    rank: str | None = None,
    confidence: str | None = None,
    position: str | None = None,
    temperature: float = TEMPERATURE,
    unlisted: str = FLOOR,
    strict: bool = False,
    out: str | Path | None = None,
) -> TeacherScores:
    """Return a teacher that knows ranked lists only.

    Rows with unknown users or items, and rows without a finite number, are left out and counted. Of a repeated pair the
    best row is used. Users without a list have no KD term.

    Args:
        frame: one row for each user and item of a list, with external ids, in any order.
        dataset: RecBole's training loader, or its data set.
        user, item, score, rank: names of the columns. By default the usual ones, such as ``user_id``.
        confidence: column of the teacher's confidence in each row, a number from 0, for ``kd_list_weights``.
        position: column of the number of the user's training interactions, from 1, that the list comes after, for a
            sequential student. A row of training has the list of its own history, or no KD term. Without it a list
            belongs to the user, at every position.
        temperature: T of the map from ranks to scores, ``-place / T``.
        unlisted: ``floor`` gives the items outside a list one score below its last item, ``mask`` leaves them out of
            every loss.
        strict: refuse rows that would be left out.
        out: a missing or empty folder to write the teacher to.

    Raises:
        TeacherError: a column is missing, a value is malformed, or no row is left.
        TargetError: ``out`` holds something.

    Examples:
        >>> import pandas as pd
        >>> data = recbole_kd.prepare_data(config)
        >>> frame = pd.DataFrame({"user": ["u1", "u1"], "item": ["i5", "i3"], "rank": [1, 2]})
        >>> teacher = recbole_kd.teacher_from_lists(frame, data.train)
        >>> teacher.store, int(teacher.covered.sum())
        ('lists', 1)
    """
    named = {"user": user, "item": item, "score": score, "rank": rank, "confidence": confidence, "position": position}
    columns = find_columns(list(frame.columns), "The table", **named)
    frames = [frame[columns.names]]
    return _from_frames(frames, columns, "The table", dataset, temperature, unlisted, strict, out)


def teacher_from_file(
    path: Path,
    dataset: Any,
    *,
    temperature: float = TEMPERATURE,
    unlisted: str = FLOOR,
    strict: bool = False,
    out: str | Path | None = None,
    **columns: str | None,
) -> TeacherScores:
    """Return a teacher of the ranked lists in a csv, tsv, Parquet or JSON lines file.

    The file is read in chunks. See :func:`teacher_from_lists`.
    """
    found = find_columns(names_in(path), str(path), **columns)
    return _from_frames(chunks_of(path, found), found, str(path), dataset, temperature, unlisted, strict, out)


def _from_frames(
    frames: Iterable[pd.DataFrame],
    columns: Columns,
    place: str,
    dataset: Any,
    temperature: float,
    unlisted: str,
    strict: bool,
    out: str | Path | None,
) -> TeacherScores:
    if not 0 < temperature < float("inf"):
        raise ConfigError(
            f"Invalid temperature={temperature}: expected a number above 0. Try temperature={TEMPERATURE}."
        )
    if unlisted not in (FLOOR, MASK):
        raise ConfigError(f"Invalid unlisted={unlisted!r}: expected floor or mask. Try unlisted={MASK}.")
    if out is not None:
        check_folder(Path(out), option="--out")
    own = getattr(dataset, "_dataset", dataset)
    by_rank = columns.rank is not None
    queries = None if columns.position is None else PositionQueries.of(dataset)
    builder = ListBuilder(known_ids(own, own.uid_field), known_ids(own, own.iid_field), by_rank, place, queries)
    for frame in frames:
        users, items = (texts_of(frame[name], place) for name in (columns.user, columns.item))
        sure, positions = (
            None if name is None else numbers_of(frame[name], place) for name in (columns.confidence, columns.position)
        )
        builder.add(users, items, numbers_of(frame[columns.value], place), sure, positions)
    tensors = builder.lists(temperature)
    if strict:
        builder.refuse()
    for words in left_out(builder.counts):
        getLogger().warning(f"{place}: {words} and are left out")
    scores = {"scores": f"-place / {temperature:g}" if by_rank else columns.score}
    users = {} if queries is None else {LISTED_USERS: int(builder.known_users.sum())}
    about = {"imported": {**builder.counts, **scores, **users}, UNLISTED: unlisted}
    return _made(tensors, "lists", about, dataset, out, queries=queries)


@takes(matrix=MATRIX, dataset=DATA, user_ids=IDS.or_none(), item_ids=IDS.or_none(), out=PATH.or_none())
def teacher_from_scores(
    matrix: Matrix,
    dataset: Any,
    *,
    user_ids: Sequence[Any] | None = None,
    item_ids: Sequence[Any] | None = None,
    out: str | Path | None = None,
) -> TeacherScores:
    """Return a teacher that knows a score of every item.

    Args:
        matrix: float ``[users, items]``.
        dataset: RecBole's training loader, or its data set.
        user_ids, item_ids: external ids of rows and columns. None if they are the data set's own ids, with the pad.
            Users that are missing have no KD term; rows and columns that the data set does not know are left out.
        out: a missing or empty folder to write the teacher to.

    Raises:
        TeacherError: the ids do not fit, an item of the data set is missing, or a score is not finite.
    """
    scores = _matrix(matrix, "scores")
    users, items = _sources(dataset, (user_ids, item_ids), (len(scores), scores.shape[1]))
    table = scores[users.clamp(min=0)][:, items.clamp(min=0)]
    table[users < 0] = 0.0
    return _made({"scores": table}, "dense", {}, dataset, out, users >= 0)


@takes(users=MATRIX, items=MATRIX, dataset=DATA, user_ids=IDS.or_none(), item_ids=IDS.or_none(), out=PATH.or_none())
def teacher_from_vectors(
    users: Matrix,
    items: Matrix,
    dataset: Any,
    *,
    user_ids: Sequence[Any] | None = None,
    item_ids: Sequence[Any] | None = None,
    out: str | Path | None = None,
) -> TeacherScores:
    """Return a teacher whose score is the dot product of a user's and an item's vector.

    Args:
        users, items: float ``[users, d]`` and ``[items, d]``.
        dataset, user_ids, item_ids, out: as in :func:`teacher_from_scores`.

    Raises:
        TeacherError: the ids or widths do not fit, an item of the data set is missing, or a number is not finite.
    """
    tables = _matrix(users, "user vectors"), _matrix(items, "item vectors")
    if tables[0].shape[1] != tables[1].shape[1]:
        raise TeacherError(
            f"The vectors of users have {tables[0].shape[1]} numbers, those of items {tables[1].shape[1]}: a dot "
            "product needs the same width"
        )
    sources = _sources(dataset, (user_ids, item_ids), (len(tables[0]), len(tables[1])))
    parts = [table[rows.clamp(min=0)] for table, rows in zip(tables, sources, strict=True)]
    for part, rows in zip(parts, sources, strict=True):
        part[rows < 0] = 0.0
    tensors = dict(zip(("query_vectors", "item_vectors"), parts, strict=True))
    return _made(tensors, "factors", {}, dataset, out, sources[0] >= 0)


def _matrix(given: Matrix, what: str) -> Tensor:
    """Return a matrix as float32 (TeacherError)."""
    table = torch.as_tensor(given).detach().cpu().float()
    if not bool(table.isfinite().all()):
        raise TeacherError(f"The {what} hold inf or nan, or numbers beyond float32: expected finite numbers")
    return table


def _sources(
    dataset: Any, ids: tuple[Sequence[Any] | None, Sequence[Any] | None], n_rows: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return the rows of the data set's users and items in the teacher's tables, or -1 (TeacherError)."""
    own = getattr(dataset, "_dataset", dataset)
    fields = (own.uid_field, own.iid_field)
    users, items = (
        torch.from_numpy(source_rows(given, n, known_ids(own, name), what))
        for given, n, name, what in zip(ids, n_rows, fields, ("users", "items"), strict=True)
    )
    for what, given, n, rows in zip(("users", "items"), ids, n_rows, (users, items), strict=True):
        unknown = 0 if given is None else n - int((rows >= 0).sum())
        if unknown:
            getLogger().warning(f"{unknown:,} of the teacher's {n:,} {what} are unknown to the data set and left out")
    missing = int((items[1:] < 0).sum())
    if missing:
        raise TeacherError(
            f"The teacher lacks {missing:,} of the {len(items) - 1:,} items of the data set: give them too, or give "
            "ranked lists with recbole_kd.teacher_from_lists"
        )
    if not bool((users[1:] >= 0).any()):
        raise TeacherError("The teacher knows none of the users of the data set: give their external ids as user_ids=")
    return users, items


def _made(
    tensors: dict[str, Tensor],
    store: str,
    about: dict[str, Any],
    dataset: Any,
    out: str | Path | None,
    covered: Tensor | None = None,
    queries: PositionQueries | None = None,
) -> TeacherScores:
    """Return the teacher of these tensors, written to ``out`` if it is given.

    With ``queries`` it answers about users and positions, and about these only in the same order of interactions.
    """
    if covered is not None:
        covered[0] = True
        tensors = tensors if bool(covered.all()) else {**tensors, COVERED: covered.to(torch.uint8)}
    own = getattr(dataset, "_dataset", dataset)
    manifest = {
        "format": FORMAT, "model": store, "store": store, "dtype": "fp32", "report": {}, **about,
        "n_queries": int(own.user_num), "n_items": int(own.item_num),
        "data": fingerprint_of(dataset, histories=queries is not None),
    }  # fmt: skip
    if queries is not None:
        manifest |= {"n_queries": queries.n_queries, N_USERS: queries.n_users}
    teacher = scores_from(tensors, manifest)
    if out is not None:
        write_teacher(Path(out), tensors, manifest)
    return teacher


def write_teacher(folder: Path, tensors: dict[str, Tensor], manifest: dict[str, Any]) -> None:
    """Write a teacher's folder, whole or not at all.

    Raises:
        TargetError: the folder holds something.
    """
    check_folder(folder, option="--out")
    with written_whole(folder) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary / SCORES)
        write_manifest(temporary, {"format": FORMAT, **manifest})
