"""Further names of modules, each of which leads to the same module object."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec


def install_aliases(paths: Mapping[str, str]) -> None:
    """Let Python find modules under further names; a second call with the same names changes nothing.

    Args:
        paths: further name -> name of the module, which is imported on use.
    """
    if not any(isinstance(finder, _AliasFinder) and finder.paths == paths for finder in sys.meta_path):
        sys.meta_path.append(_AliasFinder(dict(paths)))


class _AliasFinder(MetaPathFinder, Loader):
    """Finder of further names, asked after all others."""

    def __init__(self, paths: Mapping[str, str]) -> None:
        self.paths = paths

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in self.paths else None

    def create_module(self, spec: ModuleSpec) -> None:
        return None  # Python's default module; exec_module replaces it, so the real one keeps its own spec

    def exec_module(self, module: types.ModuleType) -> None:
        name = module.__name__
        sys.modules[name] = importlib.import_module(self.paths[name])
