"""The results of looking at attention."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.results.base import Floats, check_shape


@dataclass(frozen=True, slots=True)
class PatternResult:
    """Attention patterns of one layer.

    Attributes:
        layer: Which.
        pattern: [head, query, key] attention weights; NaN in a layer without attention.
        sink: [head, query] mass that went to a learned sink rather than to a token.
        head_norm: [head, query] L2 norm of what each head adds to the residual stream.
        head_share: [head, query] ``head_norm`` over its sum over heads.
    """

    layer: int
    pattern: Floats
    sink: Floats
    head_norm: Floats
    head_share: Floats

    def __post_init__(self) -> None:
        heads, size = self.pattern.shape[:2]
        check_shape("pattern", self.pattern, (heads, size, size))
        for name in ("sink", "head_norm", "head_share"):
            check_shape(name, getattr(self, name), (heads, size))
