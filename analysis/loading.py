"""Load a model by name, and refuse it if an identity fails."""

from __future__ import annotations

from typing import Any

from analysis.contract import progress
from analysis.errors import UnsupportedModelError
from analysis.ledger import check, require
from analysis.model import attention_hooks
from analysis.model.find_stream import find_stream
from analysis.model.handle import Model, describe, probes
from analysis.model.pretrained import load_pretrained
from analysis.model.readout import find_readout


def build_model(loaded: Any) -> Model:
    """Understand what ``analysis.model.pretrained.load_pretrained`` gave.

    Raises:
        UnsupportedModelError: If an identity that the pictures stand on fails.
    """
    hf = loaded.model.eval()
    hf.set_attn_implementation(attention_hooks.EAGER)
    vocab = int(hf.get_input_embeddings().weight.shape[0])
    try:
        stream, records = find_stream(hf, probes(vocab, hf.get_input_embeddings().weight.device))
    except (NotImplementedError, RuntimeError, TypeError) as error:
        raise UnsupportedModelError(
            f"{type(hf).__name__} does not run with an observed attention function.",
            str(error)[:300],
        ) from error
    readout = find_readout(hf, stream, records[0])
    info = describe(loaded, stream, readout, records[0])
    for block in stream.blocks:  # a batch of a long prompt takes seconds, a block of it a tenth
        block.module.register_forward_pre_hook(lambda *_: progress.check_cancelled())
    return Model(hf, loaded.tokenizer, stream, readout, info, check)


def load_model(name: str, *, dtype: str | None = None, device: str | None = None) -> Model:
    """Load a model and find its residual stream's writers.

    Args:
        name: A catalogue name, hub id, local folder, ``path/to/file.gguf``, or base+adapter.
        dtype: "float32", "bfloat16" or "float16"; by entry or setting unless given, else float32.
        device: "cuda", "cpu", or "spread" for all CUDA devices together; by entry or
            setting unless given, else the best one there.

    Raises:
        UnknownModelError: No model goes by this name.
        ModelLoadError: It can't be loaded: cut off, pickled, gated, too large.
        UnsupportedModelError: It loads, but an identity fails on it.
    """
    model = build_model(load_pretrained(name, dtype=dtype, device=device))
    require(model)
    return model
