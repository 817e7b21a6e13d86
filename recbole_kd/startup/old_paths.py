"""Import paths of earlier versions, which lead to today's modules.

``from recbole_kd.vectors import vectors`` imports :mod:`recbole_kd.scoring.vector_models` on access and returns the
same module object. Modules that were never in the README are not listed here.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec

OLD_PATHS = {
    "recbole_kd.build": "recbole_kd.training.build_distiller",
    "recbole_kd.compat": "recbole_kd.integration.compat",
    "recbole_kd.data.preparation": "recbole_kd.data.split_and_loaders",
    "recbole_kd.distiller.table": "recbole_kd.distiller.registry",
    "recbole_kd.loss": "recbole_kd.losses.cross_entropy",
    "recbole_kd.quick_start": "recbole_kd.pipeline.quick_start",
    "recbole_kd.register": "recbole_kd.integration.register",
    "recbole_kd.safe_load": "recbole_kd.integration.safe_load",
    "recbole_kd.scorer": "recbole_kd.scoring.scorer",
    "recbole_kd.trainer": "recbole_kd.training.trainer",
    "recbole_kd.vectors": "recbole_kd.scoring.vector_models",
}
"""Old path -> path of today."""


class _OldPathFinder(MetaPathFinder, Loader):
    """Finder of the modules in :data:`OLD_PATHS`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in OLD_PATHS else None

    def create_module(self, spec: ModuleSpec) -> None:
        return None  # Python's default module; exec_module replaces it, so the real one keeps its own spec

    def exec_module(self, module: types.ModuleType) -> None:
        old = module.__name__
        sys.modules[old] = importlib.import_module(OLD_PATHS[old])


def install_old_paths() -> None:
    """Let Python find the old paths; a second call changes nothing."""
    if not any(isinstance(finder, _OldPathFinder) for finder in sys.meta_path):
        sys.meta_path.append(_OldPathFinder())
