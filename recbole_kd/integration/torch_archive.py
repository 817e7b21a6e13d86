"""Reader of archives of ``torch.save``.

The zip directory alone bounds the size of a tensor, never the pickle inside.
"""

from __future__ import annotations

import io
import mmap
import os
import struct
import sys
import zipfile
from collections.abc import Callable
from typing import Any

import torch

from recbole_kd.integration.inert_objects import RefusedError
from recbole_kd.integration.pickled_tensors import Storage, StorageType, is_device

_LOCAL_HEADER = struct.Struct("<4s22xHH")


class TorchArchive:
    """The records of one archive.

    Args:
        file: an open, seekable binary file.
        map_location: as in ``torch.load``.
        mapped: keep tensors in the file, which must be on disk and must not change while they are used.

    Raises:
        RefusedError: it is a TorchScript archive, which torch would run.
        ValueError, OSError, zipfile.BadZipFile: it is not an archive of ``torch.save``, or it is damaged.
    """

    def __init__(self, file: Any, map_location: Any = None, *, mapped: bool = False) -> None:
        self._file = file
        self._map_location = map_location
        self._length = file.seek(0, os.SEEK_END)
        file.seek(0)
        if file.read(4) != b"PK\x03\x04":
            raise ValueError("it is not an archive of torch.save")
        self._zip = zipfile.ZipFile(file)
        self._records = self._checked_records()
        self._memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) if mapped else None
        self._storages: dict[str, tuple[Storage, int]] = {}

    def _checked_records(self) -> dict[str, zipfile.ZipInfo]:
        """Return the records by their names below the archive's folder.

        Raises:
            RefusedError, ValueError: see the class.
        """
        found: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            folder, _, name = info.filename.partition("/")
            if not folder or name in found or info.flag_bits & 1:
                raise ValueError("its directory lists a record twice or outside its folder")
            if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
                raise ValueError("a record is compressed, and torch.save compresses nothing")
            found[name] = info
        if sum(info.file_size for info in found.values()) > self._length:
            raise ValueError("its records are larger than the file")
        if "constants.pkl" in found:
            raise RefusedError("TorchScript code")
        if "data.pkl" not in found or len({info.filename.partition("/")[0] for info in found.values()}) != 1:
            raise ValueError("it is not an archive of torch.save")
        if "byteorder" in found and self._zip.read(found["byteorder"]) != sys.byteorder.encode():
            raise ValueError("it was written on a machine of another byte order")
        return found

    def pickle(self) -> io.BytesIO:
        """Return the pickle of the archive."""
        return io.BytesIO(self._zip.read(self._records["data.pkl"]))

    def storage_of(self, pid: Any) -> Storage:
        """Return the storage of a persistent id of the pickle; the same one for the same key.

        Raises:
            RefusedError: the id does not name a storage.
            ValueError: the record is missing, or its size differs from that of the id.
        """
        if type(pid) is not tuple or len(pid) != 5 or pid[0] != "storage" or type(pid[1]) is not StorageType:
            raise RefusedError("a persistent id that is not a storage")
        _, kind, key, location, count = pid
        if type(key) is not str or type(count) is not int or not is_device(location):
            raise RefusedError("a persistent id that is not a storage")
        if key not in self._storages:
            info = self._records.get(f"data/{key}")
            if info is None or info.file_size != count * kind.dtype.itemsize:
                raise ValueError(f"the record of tensor {key[:20]} is missing or has another size than its tensor")
            content = _restore(self._content(info), location, self._map_location)
            self._storages[key] = Storage(content, kind.dtype), count
        storage, known = self._storages[key]
        if known != count or storage.dtype != kind.dtype:
            raise ValueError(f"the record of tensor {key[:20]} is used as two kinds of numbers")
        return storage

    def _content(self, info: zipfile.ZipInfo) -> torch.UntypedStorage:
        if info.file_size == 0:
            return torch.UntypedStorage(0)
        if self._memory is not None:
            start = self._start_of(info)
            if start % 64 == 0:  # torch.save aligns them; unaligned numbers are copied
                return torch.frombuffer(
                    self._memory, dtype=torch.uint8, count=info.file_size, offset=start
                ).untyped_storage()
        return torch.frombuffer(bytearray(self._zip.read(info)), dtype=torch.uint8).untyped_storage()

    def _start_of(self, info: zipfile.ZipInfo) -> int:
        """Return the offset of a record's bytes in the file.

        Raises:
            ValueError: there is no record, or it ends beyond the file.
        """
        self._file.seek(info.header_offset)
        mark, name, extra = _LOCAL_HEADER.unpack(self._file.read(_LOCAL_HEADER.size))
        start = int(info.header_offset) + _LOCAL_HEADER.size + name + extra
        if mark != b"PK\x03\x04" or start + info.file_size > self._length:
            raise ValueError("a record lies outside the file")
        return start


def _restore(content: torch.UntypedStorage, location: str, map_location: Any) -> torch.UntypedStorage:
    """Return ``content`` on the device that ``map_location`` names, as ``torch.load`` does."""
    restore: Callable[..., Any] = torch.serialization.default_restore_location
    if map_location is None:
        return restore(content, location)
    if isinstance(map_location, dict):
        return restore(content, map_location.get(location, location))
    if isinstance(map_location, str | torch.device):
        return restore(content, str(map_location))
    moved = map_location(content, location)
    return restore(content, location) if moved is None else moved
