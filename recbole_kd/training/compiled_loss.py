"""The key ``kd_compile``: a method's loss compiled by ``torch.compile``."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from typing import Any

import torch._functorch.config as functorch

from recbole_kd.distiller.base import Distiller
from recbole_kd.errors import ConfigError

DEFAULT_COMPILERS = {"darwin": "clang++", "win32": "cl"}
"""The C++ compiler that torch calls on a platform where ``CXX`` is not set; elsewhere g++."""


def check_compiler(values: Mapping[str, Any]) -> None:
    """Refuse ``kd_compile`` where the C++ compiler that torch calls is missing (ConfigError)."""
    if not values.get("kd_compile"):
        return
    name = os.environ.get("CXX") or DEFAULT_COMPILERS.get(sys.platform, "g++")
    if shutil.which(name) is None:
        raise ConfigError(
            f"kd_compile=True needs a C++ compiler, and {name} is not installed: install it, name yours in the "
            "environment variable CXX, or leave kd_compile out"
        )


def compile_loss(distiller: Distiller) -> None:
    """Make a distiller compute its loss by ``torch.compile``, in place.

    The plain PyTorch code is compiled, without the kernels of :mod:`recbole_kd.ops.kernels`. What torch cannot compile,
    such as draws from a generator, it runs as it is. Losses and gradients agree with those that are not compiled up to
    rounding (tested). The first batch takes the time of the compilation.
    """
    if hasattr(functorch, "donated_buffer"):
        functorch.donated_buffer = False  # otherwise a graph is differentiated once, and gradient_ratio needs it again
    distiller.compile(dynamic=True)  # the number of distinct queries differs from batch to batch
