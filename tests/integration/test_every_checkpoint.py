"""The checkpoints of RecBole's models are read safely, value for value as ``torch.load`` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import recbole_kd  # noqa: F401  (registers and installs)
from recbole_kd.integration.safe_load import load_checkpoint
from tests.support import recbole_checkpoints as written

UNBUILDABLE = {"KGAT": "dgl", "KGIN": "torch_scatter", "MCCLK": "torch_scatter"}
"""Models whose libraries are no needs of ours, with the library."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    written.write_data(folder)
    return folder


def _assert_same(found: Any, wanted: Any, where: str) -> None:
    assert type(found) is type(wanted), where
    if isinstance(wanted, torch.Tensor):
        assert found.dtype == wanted.dtype and found.requires_grad == wanted.requires_grad, where
        assert torch.equal(torch.nan_to_num(found), torch.nan_to_num(wanted)), where
    elif sp.issparse(wanted):
        assert found.shape == wanted.shape and found.dtype == wanted.dtype and (found != wanted).nnz == 0, where
    elif isinstance(wanted, np.ndarray | np.generic):
        assert found.dtype == wanted.dtype and found.shape == wanted.shape, where
        np.testing.assert_array_equal(found, wanted, err_msg=where)
    elif isinstance(wanted, dict):
        assert list(found) == list(wanted), where
        for key in wanted:
            _assert_same(found[key], wanted[key], f"{where}[{key!r}]")
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted), where
        for place, pair in enumerate(zip(found, wanted, strict=True)):
            _assert_same(*pair, f"{where}[{place}]")
    elif type(wanted).__name__ == "Config":
        _assert_same(vars(found), vars(wanted), f"{where}.config")
    else:
        assert found == wanted, where


def _check(name: str, data: Path, home: Path) -> None:
    if name in UNBUILDABLE:
        pytest.importorskip(UNBUILDABLE[name])
    trainer = written.train(name, written.model_names()[name], data, home)
    files = list(home.glob("*.pth"))
    assert files
    for file in files:
        wanted = torch.load(file, weights_only=False)
        other = wanted["other_parameter"]
        if other and any(isinstance(value, torch.nn.Module) for value in other.values()):
            wanted["other_parameter"] = None  # the weights of the layer are in the state_dict
        for mmap in (False, True):
            found = load_checkpoint(file, "cpu", mmap=mmap)
            _assert_same(found, wanted, name)
        trainer.model.load_state_dict(found["state_dict"])
        trainer.model.load_other_parameter(found["other_parameter"])


@pytest.mark.parametrize("name", written.ODD)
def test_files_that_hold_more_than_weights_are_read(name: str, data: Path, tmp_path: Path) -> None:
    _check(name, data, tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(written.model_names()) - set(written.ODD)))
def test_the_files_of_every_model_are_read(name: str, data: Path, tmp_path: Path) -> None:
    _check(name, data, tmp_path / name)
