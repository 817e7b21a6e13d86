"""Scores and vectors in the number format in which a store keeps them."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_kd.errors import ConfigError


def rounded(values: Tensor, dtype: torch.dtype) -> Tensor:
    """A contiguous copy on the CPU, without history, or the tensor itself where it is one already.

    Raises:
        ConfigError: a finite number has no finite neighbour in ``dtype``, as those beyond 65,504 in fp16.
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
