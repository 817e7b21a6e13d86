"""Compatibility of RecBole 1.2.1 with today's numpy, scipy, pandas, torch and ray.

This is the only module that patches libraries. :func:`apply` runs before any module of RecBole is imported. Every patch
states its reason, its origin and the versions it applies to, and is applied only if the installed library needs it.
``torch.load`` is not patched here: ``safe_load`` reads RecBole's checkpoints.
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

# Names that RecBole and old versions of ray read from numpy, and their meaning. np.bool and np.long are not here:
# numpy 2 has them again, and RecBole's own reassignment of them does no harm.
_REMOVED_IN_NUMPY_2 = {
    "bool8": "bool_",
    "float_": "float64",
    "complex_": "complex128",
    "unicode_": "str_",
}
_REMOVED_IN_NUMPY_1_24 = {
    "int": "int_",
    "float": "float64",
    "complex": "complex128",
    "object": "object_",
    "str": "str_",
    "unicode": "str_",
}


@dataclass(frozen=True)
class Patch:
    """One patch: its reason, its origin, the versions that need it, the test and the action."""

    name: str
    reason: str
    where: str
    bound: str
    needed: Callable[[], bool]
    do: Callable[[], None]
    in_runs: bool = False
    """True if only :func:`quiet_warnings` applies it, within our own runs: an import must not change the output of a
    user's RecBole code."""


def _missing_numpy_names(names: Mapping[str, str]) -> list[str]:
    import numpy as np

    with warnings.catch_warnings():
        # numpy 1.20 to 1.23 still have some of these names, and warn at each access.
        warnings.simplefilter("ignore")
        return [name for name in names if not hasattr(np, name)]


def _restore_numpy_names(names: Mapping[str, str]) -> None:
    import numpy as np

    for name in _missing_numpy_names(names):
        setattr(np, name, getattr(np, names[name]))


def _dok_update(matrix: Any, data: Mapping[tuple[int, int], float]) -> None:
    """Update with ``data`` without checks, as scipy's own method did before 1.13."""
    matrix._dict.update(data)


def _dok_update_missing() -> bool:
    import scipy.sparse

    return not hasattr(scipy.sparse.dok_matrix, "_update")


def _restore_dok_update() -> None:
    import scipy.sparse

    scipy.sparse.dok_matrix._update = _dok_update


def _grad_scaler_warns() -> bool:
    import torch

    # torch.amp.GradScaler came with 2.3 and torch.cuda.amp.GradScaler warns since 2.4.
    return (
        hasattr(torch.amp, "GradScaler")
        and getattr(torch.cuda.amp.GradScaler.__init__, "__deprecated__", None) is not None
    )


def _silence_grad_scaler_warning() -> None:
    # Narrow on purpose: only this sentence, and only from RecBole's trainer.
    warnings.filterwarnings(
        "ignore",
        message=r"`torch\.cuda\.amp\.(GradScaler|autocast)\(args\.\.\.\)` is deprecated",
        category=FutureWarning,
        module=r"recbole\.trainer\.trainer",
    )


def _pandas_warns() -> bool:
    import pandas as pd

    major, minor = (int(part) for part in pd.__version__.split(".")[:2])
    return (major, minor) >= (2, 1) and major < 3


def _silence_pandas_warnings() -> None:
    for message in ("A value is trying to be set on a copy", "using <built-in function len> in Series.agg"):
        warnings.filterwarnings(
            "ignore", message=message, category=FutureWarning, module=r"recbole\.data\.dataset\.dataset"
        )


def _collector() -> Any:
    from recbole.evaluator.collector import Collector

    return Collector


def _moves_every_value() -> bool:
    return not hasattr(_collector().get_data_struct, "__wrapped__")


def _move_tensors_alone() -> None:
    collector = _collector()
    original = collector.get_data_struct

    @functools.wraps(original)
    def get_data_struct(self: Any) -> Any:
        import torch

        values = self.data_struct._data_dict
        plain = {key: values.pop(key) for key in list(values) if not torch.is_tensor(values[key])}
        try:
            found = original(self)
        finally:
            values.update(plain)
        found._data_dict.update(copy.deepcopy(plain))
        return found

    collector.get_data_struct = get_data_struct


PATCHES = (
    Patch(
        name="numpy-2-names",
        reason="Config.compatibility_settings reads np.float_, np.complex_ and np.unicode_; ray <= 2.6.3 reads "
        "np.bool8",
        where="recbole/config/configurator.py, end of file; ray.tune in the version RecBole's metadata asks for",
        bound="numpy >= 2.0",
        needed=lambda: bool(_missing_numpy_names(_REMOVED_IN_NUMPY_2)),
        do=lambda: _restore_numpy_names(_REMOVED_IN_NUMPY_2),
    ),
    Patch(
        name="numpy-1.24-names",
        reason="only Config.__init__ restores np.float and similar names, but a Config read from a checkpoint or sent "
        "to a spawned worker never runs __init__, and then RecBole's metrics fail",
        where="recbole/evaluator/metrics.py, recbole/data/interaction.py",
        bound="numpy >= 1.24",
        needed=lambda: bool(_missing_numpy_names(_REMOVED_IN_NUMPY_1_24)),
        do=lambda: _restore_numpy_names(_REMOVED_IN_NUMPY_1_24),
    ),
    Patch(
        name="scipy-dok-update",
        reason="LightGCN, NGCF, NCL, GCMC, SpectralCF, KGIN and MCCLK fill their graph with dok_matrix._update",
        where="recbole/model/general_recommender/lightgcn.py, get_norm_adj_mat, and the same lines in the others",
        bound="scipy >= 1.13",
        needed=_dok_update_missing,
        do=_restore_dok_update,
    ),
    Patch(
        name="torch-grad-scaler-warning",
        reason="the trainer makes a torch.cuda.amp.GradScaler every epoch, which works and warns every time",
        where="recbole/trainer/trainer.py, _train_epoch",
        bound="torch >= 2.4",
        needed=_grad_scaler_warns,
        do=_silence_grad_scaler_warning,
        in_runs=True,
    ),
    Patch(
        name="pandas-future-warnings",
        reason="every data set prints the same paragraphs about chained assignment and agg(len), which pandas 2 still "
        "executes as RecBole means them (recbole_kd asks for pandas < 3)",
        where="recbole/data/dataset/dataset.py, _fill_nan, _load_feat, _remap",
        bound="pandas >= 2.1, < 3",
        needed=_pandas_warns,
        do=_silence_pandas_warnings,
        in_runs=True,
    ),
    Patch(
        name="collector-plain-values",
        reason="ItemCoverage, GiniIndex, AveragePopularity and TailPercentage read counts of the data, which the "
        "collector moves to the CPU as if they were tensors: AttributeError: 'int' object has no attribute 'cpu'",
        where="recbole/evaluator/collector.py, get_data_struct",
        bound="recbole >= 1.2.1",
        needed=_moves_every_value,
        do=_move_tensors_alone,
    ),
)

_applied: list[str] = []
_done = False


@contextmanager
def quiet_warnings() -> Iterator[None]:
    """Suppress, within our own runs, the warnings of RecBole's code with today's libraries."""
    with warnings.catch_warnings():
        for patch in PATCHES:
            if patch.in_runs and patch.needed():
                patch.do()
        yield


def apply() -> list[str]:
    """Apply every patch that the installed libraries need, once, and return their names."""
    global _done
    if not _done:
        for patch in PATCHES:
            if not patch.in_runs and patch.needed():
                patch.do()
                _applied.append(patch.name)
        _done = True
    return list(_applied)
