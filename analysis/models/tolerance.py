"""When two sums of states count as the same."""

from __future__ import annotations

import torch
from torch import Tensor

#: Largest relative error at which two float32 sums count as the same; 16-bit models get more.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-5}
LOOSE_TOLERANCE = 2e-2


def tolerance(dtype: torch.dtype) -> float:
    """The largest relative error at which a sum holds in ``dtype``."""
    return TOLERANCE.get(dtype, LOOSE_TOLERANCE)


def relative_error(found: Tensor, wanted: Tensor, *parts: Tensor) -> float:
    """Norm of the difference over the largest norm among the parts."""
    largest = max(float(part.norm()) for part in (wanted, found, *parts))
    return float((found - wanted).norm()) / max(largest, 1e-30)
