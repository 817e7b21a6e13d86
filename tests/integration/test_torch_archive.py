"""Archives of torch.save that were forged: a tensor never reaches outside the bytes that the zip directory gives it."""

from __future__ import annotations

import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

import recbole_kd  # noqa: F401  (registers and installs)
from recbole_kd.errors import TeacherError
from recbole_kd.integration import pickled_tensors
from recbole_kd.integration.safe_load import load_checkpoint
from tests.support.forged_pickles import Forged, call, pickled

WEIGHTS = torch.arange(6, dtype=torch.float32)


class _Persistent(call):
    """A persistent id in a forged pickle."""

    def __init__(self, *pid: Any) -> None:
        super().__init__("", "", *pid)


def _storage_type(name: str) -> call:
    return call("torch", name)


def _archive(content: Any, path: Path, records: dict[str, bytes] | None = None, **options: Any) -> Path:
    """Write an archive as torch.save does, with any pickle and any records."""
    body = _with_ids(content)
    names = {
        "data.pkl": body,
        "byteorder": sys.byteorder.encode(),
        "data/0": WEIGHTS.numpy().tobytes(),
        **(records or {}),
    }
    with zipfile.ZipFile(path, "w", **options) as target:
        for name, record in names.items():
            target.writestr(f"archive/{name}", record)
    return path


def _with_ids(content: Any) -> bytes:
    """Return the pickle of content.

    Its ``_Persistent`` are written as ids and ``call`` without arguments of storages as names.
    """
    from tests.support import forged_pickles

    class Pickler(forged_pickles._Pickler):
        def save(self, obj: Any, save_persistent_id: bool = True) -> None:
            if type(obj) is _Persistent:
                super().save(obj.arguments)
                self.write(pickle.BINPERSID)
            elif type(obj) is call and obj.name.endswith("Storage"):
                self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
            else:
                super().save(obj, save_persistent_id)

    file = io.BytesIO()
    pickler = Pickler(file, protocol=4)
    pickler.framer.start_framing = lambda: None
    pickler.dump(content)
    return file.getvalue()


def _pid(kind: str = "FloatStorage", key: Any = "0", location: Any = "cpu", count: Any = 6) -> _Persistent:
    return _Persistent("storage", _storage_type(kind), key, location, count)


def _tensor(pid: Any = None, offset: Any = 0, size: Any = (6,), stride: Any = (1,), *more: Any) -> call:
    rest = more or (False, OrderedDict())
    return call("torch._utils", "_rebuild_tensor_v2", pid or _pid(), offset, size, stride, *rest)


@pytest.mark.parametrize("mmap", [False, True])
def test_good_tensors_are_read(mmap: bool, tmp_path: Path) -> None:
    pid = _pid()
    content = {
        "a": _tensor(pid),
        "b": _tensor(pid, 1, (2, 2), (2, 1)),
        "c": _tensor(pid, 6, (0, 3), (3, 1)),
        "d": _tensor(pid, 2, (), ()),
    }
    found = load_checkpoint(_archive(content, tmp_path / "a.pth"), mmap=mmap)
    assert torch.equal(found["a"], WEIGHTS) and found["b"].tolist() == [[1, 2], [3, 4]] and found["c"].shape == (0, 3)
    assert found["d"] == 2
    found["a"][3] = 50
    assert found["b"][1, 0] == 50, "tensors of one storage stay one"
    assert torch.equal(load_checkpoint(tmp_path / "a.pth")["a"], WEIGHTS), "the file is never written"


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (7,), (1,)),
        (1, (6,), (1,)),
        (7, (0,), (1,)),
        (6, (), ()),
        (-1, (2,), (1,)),
        (0, (-1,), (1,)),
        (0, (2,), (-1,)),
        (0, (2,), (6,)),
        (0, (7,), (0,)),
        (0, (10**12,), (0,)),
        (0, (2**61, 8), (0, 0)),
        (0, (2**32, 2**32), (1, 1)),
        (0, (0, 2**61, 2**61), (1, 1, 1)),
        (2**63, (1,), (1,)),
        (2**70, (0,), (1,)),
        (0, (6,), ()),
        (0, (), (1,)),
        (0, (6.0,), (1,)),
        (0, 6, 1),
        (0, [6], [1]),
        (None, (6,), (1,)),
        (True, (2,), (1,)),
    ],
)
def test_a_tensor_stays_inside_its_record(offset: Any, size: Any, stride: Any, mmap: bool, tmp_path: Path) -> None:
    with pytest.raises(TeacherError):
        load_checkpoint(_archive({"a": _tensor(None, offset, size, stride)}, tmp_path / "a.pth"), mmap=mmap)


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize(
    "pid",
    [
        _pid(count=7),
        _pid(count=5),
        _pid(count=0),
        _pid(count=-6),
        _pid(count=2**61),
        _pid(count=6.0),
        _pid(count=None),
        _pid("DoubleStorage"),
        _pid("ByteStorage"),
        _pid("UntypedStorage"),
        _pid(key="1"),
        _pid(key="../data/0"),
        _pid(key=0),
        _pid(location="meta"),
        _pid(location="cpu; rm"),
        _pid(location=None),
        _pid(location=("cpu",)),
        _Persistent("module", _storage_type("FloatStorage"), "0", "cpu", 6),
        _Persistent("storage", "FloatStorage", "0", "cpu", 6),
        _Persistent("storage", torch.float32, "0", "cpu", 6),
        _Persistent("storage", _storage_type("FloatStorage"), "0", "cpu"),
        _Persistent("storage", _storage_type("FloatStorage"), "0", "cpu", 6, None),
    ],
)
def test_a_storage_is_its_record(pid: Any, mmap: bool, tmp_path: Path) -> None:
    with pytest.raises(TeacherError):
        load_checkpoint(_archive({"a": _tensor(pid, 0, (1,), (1,))}, tmp_path / "a.pth"), mmap=mmap)


def test_a_record_is_of_one_kind_of_numbers(tmp_path: Path) -> None:
    content = {"a": _tensor(_pid()), "b": _tensor(_pid("IntStorage"))}
    with pytest.raises(TeacherError, match="two kinds"):
        load_checkpoint(_archive(content, tmp_path / "a.pth"))


@pytest.mark.parametrize(
    "value",
    [
        _pid(),
        _storage_type("FloatStorage"),
        _tensor(None, 0, (6,), (1,), False, OrderedDict(a=1)),
        _tensor(None, 0, (6,), (1,), False, {}),
        _tensor(None, 0, (6,), (1,), 1, OrderedDict()),
        _tensor(None, 0, (6,), (1,), False, OrderedDict(), {"conj": True}),
        call("torch._utils", "_rebuild_tensor_v2", "storage", 0, (6,), (1,), False, OrderedDict()),
        call("torch._utils", "_rebuild_parameter", 5, False, OrderedDict()),
        call("torch._utils", "_rebuild_parameter", _tensor(), False, OrderedDict(a=1)),
        call("torch._utils", "_rebuild_parameter", _tensor(), "x", OrderedDict()),
        Forged(_tensor(), {"grad": 1}),
        call("torch.serialization", "_get_layout", "torch.sparse_csr"),
        call("torch.serialization", "_get_layout", "torch.strided"),
    ],
)
def test_a_tensor_has_neither_hooks_nor_a_state(value: Any, tmp_path: Path) -> None:
    with pytest.raises(TeacherError):
        load_checkpoint(_archive({"a": value}, tmp_path / "a.pth"))


@pytest.mark.parametrize("indices", [[[0, 9]], [[-1, 0]], [[0, 2**40]]])
def test_a_sparse_tensor_has_its_indices_inside(indices: Any, tmp_path: Path) -> None:
    good = torch.sparse_coo_tensor([[0, 2], [1, 1]], [1.0, 2.0], (3, 4)).coalesce()
    torch.save({"a": good}, tmp_path / "good.pth", pickle_protocol=4)
    assert torch.equal(load_checkpoint(tmp_path / "good.pth")["a"].to_dense(), good.to_dense())
    layout = call("torch.serialization", "_get_layout", "torch.sparse_coo")
    records = {"data/1": torch.tensor(indices).numpy().tobytes(), "data/0": torch.ones(2).numpy().tobytes()}
    where = _tensor(_pid("LongStorage", "1", count=2), 0, (1, 2), (2, 1))
    for size in ((3,), (0,), (-1,), (3, 4), (2**63,)):
        content = {
            "a": call(
                "torch._utils",
                "_rebuild_sparse_tensor",
                layout,
                (where, _tensor(_pid(count=2), 0, (2,), (1,)), size, True),
            )
        }
        with pytest.raises(TeacherError):
            load_checkpoint(_archive(content, tmp_path / "a.pth", records))


def test_records_listed_twice_compressed_or_elsewhere_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    content = {"a": _tensor()}
    assert torch.equal(load_checkpoint(_archive(content, path))["a"], WEIGHTS)
    with zipfile.ZipFile(path, "a") as target, pytest.warns(UserWarning, match="Duplicate"):
        target.writestr("archive/data/0", b"\1" * 24)
    with pytest.raises(TeacherError, match="twice"):
        load_checkpoint(path)
    _archive(content, path)
    with zipfile.ZipFile(path, "a") as target:
        target.writestr("other/data/0", b"\1" * 24)
    with pytest.raises(TeacherError):
        load_checkpoint(path)
    with pytest.raises(TeacherError, match="compressed"):
        load_checkpoint(_archive(content, path, {"data/1": b"\0" * 10**7}, compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(TeacherError, match="byte order"):
        load_checkpoint(_archive(content, path, {"byteorder": b"big" if sys.byteorder == "little" else b"little"}))
    with pytest.raises(TeacherError, match="TorchScript"):
        load_checkpoint(_archive(content, path, {"constants.pkl": b"x"}))


def test_a_directory_that_lies_about_sizes_is_refused(tmp_path: Path) -> None:
    path = _archive({"a": _tensor()}, tmp_path / "a.pth")
    content = path.read_bytes()
    size = (24).to_bytes(4, "little")
    for false in (25, 10**9, 2**31):
        path.write_bytes(content.replace(size + size, false.to_bytes(4, "little") * 2))
        for mmap in (False, True):
            with pytest.raises(TeacherError):
                load_checkpoint(path, mmap=mmap)


def test_a_flipped_bit_in_a_record_is_found(tmp_path: Path) -> None:
    path = _archive({"a": _tensor()}, tmp_path / "a.pth")
    content, record = path.read_bytes(), WEIGHTS.numpy().tobytes()
    path.write_bytes(content.replace(record, record[:-1] + bytes([record[-1] ^ 1])))
    with pytest.raises(TeacherError, match="CRC"):
        load_checkpoint(path)


@pytest.mark.parametrize("mmap", [False, True])
def test_map_location_is_as_in_torch(mmap: bool, tmp_path: Path) -> None:
    torch.save({"a": torch.arange(3.0), "b": torch.zeros(0, dtype=torch.int64)}, tmp_path / "a.pth")
    for place in (
        None,
        "cpu",
        torch.device("cpu"),
        {"cpu": "cpu"},
        lambda content, _: content,
        lambda content, _: None,
    ):
        found = load_checkpoint(tmp_path / "a.pth", place, mmap=mmap)
        assert found["a"].tolist() == [0, 1, 2] and found["b"].shape == (0,) and found["b"].dtype == torch.int64


def test_every_type_of_numbers_is_read(tmp_path: Path) -> None:
    kinds = (
        "float16",
        "float32",
        "float64",
        "bfloat16",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "bool",
        "complex64",
        "complex128",
    )
    content = {kind: torch.tensor([[0, 1, 1]]).to(getattr(torch, kind)).t() for kind in kinds}
    content |= {
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "fixed": torch.nn.Parameter(torch.ones(2), requires_grad=False),
    }
    for protocol in (2, 4):
        torch.save(content, tmp_path / "a.pth", pickle_protocol=protocol)
        found = load_checkpoint(tmp_path / "a.pth")
        for key, value in content.items():
            assert found[key].dtype == value.dtype and torch.equal(found[key], value), key
            assert type(found[key]) is type(value) and found[key].requires_grad == value.requires_grad


def test_forged_content_alone_is_no_archive() -> None:
    with pytest.raises(TeacherError):
        load_checkpoint(io.BytesIO(pickled({"a": 1})))


@pytest.mark.parametrize(("offset", "size", "stride"), [(0, 5, 1), (1, 4, 1), (2, 2, 2), (5, 1, 1)])
def test_a_tensor_ends_before_its_storage_does(offset: int, size: int, stride: int) -> None:
    storage = pickled_tensors.Storage(torch.zeros(4).untyped_storage(), torch.float32)
    with pytest.raises(ValueError, match="reaches outside"):
        pickled_tensors.tensor(storage, offset, (size,), (stride,), False, None)
    assert pickled_tensors.tensor(storage, 0, (4,), (1,), False, None).shape == (4,)
