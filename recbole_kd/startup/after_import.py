"""A function that runs as soon as a package is imported, whoever imports it."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec


def after_import(package: str, run: Callable[[], None]) -> None:
    """Run a function at the end of the first import of a package, or now if it is imported already.

    The package's submodules are imported after that, so the function can change what they will find.

    Args:
        package: name of a package, without a dot.
        run: what to run. An error that it raises becomes an error of the import.
    """
    if sys.modules.get(package) is not None:
        run()
    else:
        sys.meta_path.insert(0, _Finder(package, run))


class _Finder(MetaPathFinder):
    """Finder of one package, which others find; it only wraps their loader."""

    def __init__(self, package: str, run: Callable[[], None]) -> None:
        self._package, self._run, self._asking = package, run, False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._package or self._asking:
            return None
        self._asking = True
        try:
            spec = find_spec(fullname)
        finally:
            self._asking = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)
        return spec

    def imported(self) -> None:
        """Run the function; it runs once."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
            self._run()


class _Loader(Loader):
    """The package's own loader, followed by the function."""

    def __init__(self, loader: Loader, finder: _Finder) -> None:
        self._loader, self._finder = loader, finder

    def create_module(self, spec: ModuleSpec) -> types.ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._finder.imported()
