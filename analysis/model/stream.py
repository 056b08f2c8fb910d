"""The residual stream of a model: its blocks, and the modules that write to it."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from analysis.model.attention_hooks import scaled_pattern


@dataclass
class Block:
    """One block of the stream.

    Attributes:
        module: The block.
        attention_writer, mlp_writer: Modules whose outputs, scaled, are added to the stream.
        attention_scale, mlp_scale: Those scales; 1 in most models (not in Granite).
        attention: The module that calls the attention function; None if the block has none.
        projection: The output projection that mixes the heads; None if it was not found.
        post_norm: The norm between the projection and the stream; None if there is none.
        heads, kv_heads, d_head: Shape of its attention; 0 without attention.
        scaled_heads: Whether each head's output is multiplied by a factor per query after the
            softmax, as for a learned sink.
        error: Relative error of ``resid + attention + MLP = next row`` on the first probe.
    """

    module: nn.Module
    attention_writer: nn.Module
    mlp_writer: nn.Module
    attention_scale: float = 1.0
    mlp_scale: float = 1.0
    attention: nn.Module | None = None
    projection: nn.Module | None = None
    post_norm: nn.Module | None = None
    heads: int = 0
    kv_heads: int = 0
    d_head: int = 0
    scaled_heads: bool = False
    error: float = 0.0


@dataclass
class Stream:
    """The residual stream of a model.

    Attributes:
        blocks: [layer].
        parallel: Whether attention and MLP read the same state (parallel blocks).
        d_model: Its width.
        layer_of: Layer of each attention module, by the module's ``id``.
        by_hooks: Whether attention is observed with hooks instead of the attention interface.
    """

    blocks: list[Block]
    parallel: bool = False
    d_model: int = 0
    layer_of: dict[int, int] = field(default_factory=dict)
    by_hooks: bool = False

    @property
    def attending(self) -> list[nn.Module]:
        """The attention modules."""
        return [block.attention for block in self.blocks if block.attention is not None]

    def pattern(self, layer: int, value: Tensor, pattern: Tensor, output: Tensor) -> Tensor:
        """[batch, head, query, key] the pattern whose product with the values is the output."""
        if not self.blocks[layer].scaled_heads:
            return pattern
        return scaled_pattern(value, pattern, output)

    def layer(self, module: nn.Module) -> int | None:
        """The layer of an attention module; None if it is not in the stream."""
        return self.layer_of.get(id(module))
