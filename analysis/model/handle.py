"""A loaded model: the transformers model, its residual stream, readout and description."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import signature
from threading import RLock
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from analysis.contract import jobs
from analysis.contract.ledger import Ledger
from analysis.contract.specs import Floats, InfoSpec, ModelInfo, resolve_index
from analysis.errors import SpecError
from analysis.model.probe import Record
from analysis.model.readout import Readout
from analysis.model.stream import Block, Stream
from analysis.store.memo import LruCache

PROBE_LENGTH = 7
PROBE_SEEDS = (11, 12)
#: Positions of a long prompt that are run at once, where memory is short.
BLOCK = 512
#: Cache layers of attention that needs nothing but keys and values. With a sliding window, the mask
#: hides those outside the window.
_PLAIN = {DynamicLayer, DynamicSlidingWindowLayer}
#: Most prompts whose check against the untouched model is remembered.
_CHECKED_PROMPTS = 256


def _check_cancelled(_module: Any, _inputs: Any) -> None:
    jobs.check_cancelled()


@dataclass(eq=False)
class Model:
    """A decoder whose residual stream and readout are known.

    Attributes:
        hf: The transformers model, in evaluation mode, with the observed attention function.
        tokenizer: Its tokenizer.
        stream: Its blocks and their writers.
        readout: Its final norm, unembedding and embeddings.
        info: Its description.
        measure_ledger: Measures every identity; ``check`` calls it.
        recent: Traces that passes over longer prompts may go on from, while someone keeps them.
        went_wrong: Whether a pass that went on from known positions gave other states.
        lock: Held during a forward pass, since hooks are attached to the modules.
        capture_errors: Error of identity 1 for each prompt that was checked; see
            ``analysis.ledger``.
    """

    hf: Any
    tokenizer: Any
    stream: Stream
    readout: Readout
    info: ModelInfo
    measure_ledger: Callable[[Model], Ledger] = field(repr=False)
    recent: WeakSet[Any] = field(default_factory=WeakSet, repr=False)
    went_wrong: bool = field(default=False, repr=False)
    lock: RLock = field(default_factory=RLock, repr=False)
    capture_errors: LruCache[float] = field(
        default_factory=lambda: LruCache(_CHECKED_PROMPTS, lambda _error: 1), repr=False
    )

    def __post_init__(self) -> None:
        for block in self.stream.blocks:  # a batch may take seconds, a block a tenth
            block.module.register_forward_pre_hook(_check_cancelled)

    @property
    def goes_on(self) -> bool:
        """Whether passes may go on from known positions.

        The model must keep nothing but keys and values, and attention must be observed where it
        reads them. A pass that went on and gave other states ends it.
        """
        supported = getattr(self.hf, "_supports_default_dynamic_cache", None)
        takes = signature(self.hf.forward).parameters
        if self.went_wrong or self.stream.by_hooks or "past_key_values" not in takes:
            return False
        if supported is None or not supported():
            return False
        usual = DynamicCache(config=self.hf.config.get_text_config(decoder=True))
        return {type(layer) for layer in usual.layers} <= _PLAIN

    def block_of(self, length: int) -> int:
        """How many positions of a prompt to run at once where memory is short; 0 for all.

        A model whose passes can't go on runs all at once; so does one with gated attention.
        """
        gated = any(block.gated for block in self.stream.blocks)
        return BLOCK if length > BLOCK and self.goes_on and not gated else 0

    @property
    def device(self) -> torch.device:
        """The device of the token ids."""
        device: torch.device = self.hf.get_input_embeddings().weight.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its weights."""
        dtype: torch.dtype = next(self.hf.parameters()).dtype
        return dtype

    @property
    def exact(self) -> bool:
        """Whether float32 tolerances apply: not for 16-bit and quantised weights."""
        return self.dtype in (torch.float32, torch.float64) and not self.quantised

    @property
    def quantised(self) -> bool:
        """Whether its weights are quantised."""
        return getattr(self.hf.config, "quantization_config", None) is not None

    def head_index(self, layer: int, head: int) -> int:
        """A head of a layer, counted from the start.

        Raises:
            SpecError: If the layer has no attention or no such head.
        """
        heads = self.stream.blocks[layer].heads
        if not heads:
            raise SpecError(f"Layer {layer} has no attention.", "Choose another layer.")
        return resolve_index(f"In layer {layer}, head", head, heads)

    def check(self) -> Ledger:
        """Measure every identity on two short probes.

        Returns:
            A Ledger: ``passed``, and ``entries`` with name, error, tolerance and passed.
        """
        return self.measure_ledger(self)

    @property
    def nbytes(self) -> int:
        """Bytes of its weights; tied weights count once."""
        return sum(part.numel() * part.element_size() for part in self.hf.parameters())

    def _repr_html_(self) -> str:
        """A summary for notebooks: its description."""
        return self.info._repr_html_()


def info(model: Model, _spec: InfoSpec) -> ModelInfo:
    """The model's description, a technique of ``analysis.registry``."""
    return model.info


def probes(vocab: int, device: torch.device) -> list[Tensor]:
    """Two short probes of seeded random token ids, [1, pos] each."""
    made = []
    for seed in PROBE_SEEDS:
        generator = torch.Generator().manual_seed(seed)
        made.append(torch.randint(0, vocab, (1, PROBE_LENGTH), generator=generator).to(device))
    return made


def describe(loaded: Any, stream: Stream, readout: Readout, record: Record) -> ModelInfo:
    """The description of a loaded model."""
    hf = loaded.model
    config = hf.config.get_text_config()
    blocks = [block for block in stream.blocks if block.heads] or stream.blocks[:1]
    return ModelInfo(
        name=loaded.entry.name,
        architecture=str(hf.config.model_type),
        layers=len(stream.blocks),
        heads=max(block.heads for block in blocks),
        kv_heads=max(block.kv_heads for block in blocks),
        d_model=stream.d_model,
        d_head=max(block.d_head for block in blocks),
        vocab=int(readout.output_rows.shape[0]),
        max_positions=max_positions(config),
        parameters=sum(part.numel() for part in hf.parameters()),
        tied_embeddings=readout.tied,
        parallel_blocks=stream.parallel,
        norm={"rms": "RMSNorm", "layer": "LayerNorm", "none": "none"}[readout.form.kind],
        dtype=str(next(hf.parameters()).dtype).removeprefix("torch."),
        device=", ".join(sorted({str(part.device) for part in hf.parameters()})),
        source=loaded.source,
        revision=loaded.revision,
        fingerprint=loaded.fingerprint,
        chat_template=bool(getattr(loaded.tokenizer, "chat_template", None)),
        attention_interface="hooks" if stream.by_hooks else "function",
        quantised=loaded.entry.quantise or _quantisation_method(hf.config),
        adapter=loaded.entry.adapter,
        plain_norm=readout.form.plain,
        parts=stream.named_parts,
        split_heads=stream.split_heads,
        linear_head=readout.linear,
    )


def max_positions(config: Any) -> int:
    """The longest sequence of a model; 0 if its configuration gives none.

    Scaled rotary embeddings (dynamic, linear, YaRN, Llama 3, LongRoPE) reach their factor times
    the length of pre-training. That may be more than ``max_position_embeddings``.
    """
    limit = int(getattr(config, "max_position_embeddings", 0) or 0)
    parameters = getattr(config, "rope_parameters", None) or {}
    kinds = [parameters, *(value for value in parameters.values() if isinstance(value, dict))]
    reached = [
        int(kind["factor"] * (kind.get("original_max_position_embeddings") or limit))
        for kind in kinds
        if kind.get("rope_type", "default") != "default" and kind.get("factor")
    ]
    return max(limit, min(reached, default=0)) if limit else 0


def _quantisation_method(config: Any) -> str:
    """The quantisation method of a model's files; "" if they are not quantised."""
    found = getattr(config, "quantization_config", None)
    if found is None:
        return ""
    values = found if isinstance(found, dict) else vars(found)
    return str(
        getattr(values.get("quant_method"), "value", values.get("quant_method", "quantised"))
    )


def first_attending(stream: Stream) -> Block:
    """The first block with attention, else the first block; it gives the head counts."""
    return next((block for block in stream.blocks if block.heads), stream.blocks[0])


@torch.no_grad()
def plain_logits(model: Model, token_ids: tuple[int, ...]) -> Floats:
    """The logits [pos, vocab] of the untouched model: no hooks, and its own eager attention."""
    tokens = torch.tensor([token_ids], device=model.device)
    with model.lock:
        logits = model.hf(input_ids=tokens, use_cache=False).logits[0]
    plain: Floats = logits.to("cpu", torch.float32).numpy()
    return plain
