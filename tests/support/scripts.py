"""A script of the checkout as a module."""

from __future__ import annotations

import importlib.util
from typing import Any

from tests.support.paths import ROOT


def script(name: str) -> Any:
    """Return the module of ``scripts/<name>.py``."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
