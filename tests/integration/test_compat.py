"""The bridge to today's libraries: each patch is applied exactly where it is needed, and does what it says."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recbole_kd.integration import compat
from recbole_kd.startup.recbole_missing import check_recbole

PATCHES = {patch.name: patch for patch in compat.PATCHES}


def test_apply_is_idempotent_and_leaves_nothing_needed() -> None:
    first = compat.apply()
    assert compat.apply() == first
    assert len(set(first)) == len(first) and set(first) <= set(PATCHES)
    for name in ("numpy-2-names", "numpy-1.24-names", "scipy-dok-update"):
        assert not PATCHES[name].needed(), name


def test_every_patch_says_why_where_and_until_when() -> None:
    for patch in compat.PATCHES:
        assert patch.reason and patch.where and any(c in patch.bound for c in "<>="), patch.name


def test_missing_recbole_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    check_recbole()
    monkeypatch.setitem(sys.modules, "recbole", None)
    with pytest.raises(ImportError, match=r"pip install --no-deps recbole==1\.2\.1"):
        check_recbole()


@pytest.mark.parametrize(
    ("patch", "names"),
    [("numpy-2-names", compat._REMOVED_IN_NUMPY_2), ("numpy-1.24-names", compat._REMOVED_IN_NUMPY_1_24)],
)
def test_numpy_names_are_restored_iff_missing(
    patch: str, names: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if any(name not in vars(np) and hasattr(np, name) for name in names):
            pytest.skip("this numpy makes the names when they are asked for, so they cannot be taken away")
    for name in names:
        monkeypatch.delattr(np, name, raising=False)
    lacks = not hasattr(np, next(iter(names)))
    assert PATCHES[patch].needed() == lacks
    PATCHES[patch].do()
    assert not PATCHES[patch].needed()
    for name, meaning in names.items():
        assert getattr(np, name) is getattr(np, meaning), name


def test_numpy_names_that_exist_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "float_", "kept", raising=False)
    PATCHES["numpy-2-names"].do()
    assert np.float_ == "kept"  # type: ignore[attr-defined]


def test_recboles_own_settings_run_on_this_numpy() -> None:
    from recbole.config import Config

    Config.compatibility_settings(Config.__new__(Config))
    assert np.dtype(np.float) == np.float64  # type: ignore[attr-defined]
    assert np.dtype(np.bool) == np.bool_


def test_dok_update_is_restored_iff_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    if "_update" not in vars(sp.dok_matrix) or not hasattr(sp.dok_matrix((1, 1)), "_dict"):
        pytest.skip("this scipy has the method itself, which cannot be taken away or works on another form")
    monkeypatch.delattr(sp.dok_matrix, "_update")
    assert PATCHES["scipy-dok-update"].needed()
    PATCHES["scipy-dok-update"].do()
    matrix = sp.dok_matrix((2, 3), dtype=np.float32)
    matrix._update({(0, 2): 1, (1, 0): 4})
    assert matrix.toarray().tolist() == [[0, 0, 1], [4, 0, 0]]
    monkeypatch.undo()
    assert not PATCHES["scipy-dok-update"].needed()


def _interactions() -> sp.coo_matrix:
    generator = np.random.default_rng(3)
    dense = generator.random((7, 11)) < 0.3
    dense[0], dense[:, 0] = False, False  # RecBole's pad user and pad item
    return sp.coo_matrix(dense.astype(np.float32))


@pytest.mark.parametrize("name", ["LightGCN", "NGCF"])
def test_graph_equals_an_independent_computation(name: str) -> None:
    from recbole.utils import get_model

    inter = _interactions()
    n_users, n_items = inter.shape
    model: Any = SimpleNamespace(n_users=n_users, n_items=n_items, interaction_matrix=inter)
    got = get_model(name).get_norm_adj_mat(model).to_dense().numpy()

    block = np.zeros((n_users + n_items,) * 2)
    block[:n_users, n_users:] = inter.toarray()
    block += block.T
    scale = 1 / np.sqrt(block.sum(1) + 1e-7)
    expected = scale[:, None] * block * scale[None, :]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)


def test_grad_scaler_is_silent_from_recboles_trainer_alone() -> None:
    patch = PATCHES["torch-grad-scaler-warning"]
    if not patch.needed():
        pytest.skip("this torch does not warn")
    code = "torch.cuda.amp.GradScaler(enabled=False)"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        patch.do()
        exec(code, {"torch": torch, "__name__": "recbole.trainer.trainer"})
        assert not caught
        exec(code, {"torch": torch, "__name__": "someone.elses.trainer"})
    assert [w.category for w in caught] == [FutureWarning]


def test_pandas_warnings_are_silent_from_recboles_data_set_alone() -> None:
    import pandas as pd

    patch = PATCHES["pandas-future-warnings"]
    if not patch.needed():
        pytest.skip("this pandas does not warn")
    code = "frame = pd.DataFrame({'a': [1.0, None]}); frame['a'].fillna(value=0, inplace=True)"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        patch.do()
        silent = {"pd": pd, "__name__": "recbole.data.dataset.dataset"}
        exec(code, silent)
        assert not caught
        assert silent["frame"]["a"].tolist() == [1.0, 0.0]
        exec(code, {"pd": pd, "__name__": "someone.elses.frame"})
    assert [w.category for w in caught] == [FutureWarning]


def test_the_file_needs_nothing_of_the_package() -> None:
    # It runs before everything else, so it can be loaded alone.
    path = Path(compat.__file__)
    spec = importlib.util.spec_from_file_location("compat_alone", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["compat_alone"] = module
    try:
        spec.loader.exec_module(module)
        # Everything that can be seen to be missing is in place already; only warning filters are set again.
        assert set(module.apply()) <= {"torch-grad-scaler-warning", "pandas-future-warnings"}
    finally:
        del sys.modules["compat_alone"]
