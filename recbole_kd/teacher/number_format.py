"""Conversion of scores and vectors to the number format of a store."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_kd.errors import ConfigError


def rounded(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor in a number format, contiguous and detached on the CPU.

    It is copied only if necessary.

    Raises:
        ConfigError: a finite number becomes infinite in ``dtype``, such as one beyond 65,504 in fp16.
    """
    found = values.detach().to("cpu", dtype).contiguous()
    if dtype == torch.float16:
        lost = found.isinf() & values.detach().cpu().isfinite()
        if bool(lost.any()):
            worst = float(values.detach().cpu()[lost].abs().max())
            raise ConfigError(
                f"teacher_dtype=fp16 cannot hold {worst:.6g}, which is among this teacher's scores or vectors: its "
                "largest number is 65,504, take teacher_dtype=fp32"
            )
    return found
