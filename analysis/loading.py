"""Load a model by name, and refuse it if one of the identities 1 to 5 fails."""

from __future__ import annotations

from functools import partial
from os import PathLike, fspath
from typing import Any

from analysis.errors import AnalysisError, SpecError, UnknownModelError, UnsupportedModelError
from analysis.ledger import check, require
from analysis.model import attention_hooks
from analysis.model.find_stream import find_stream
from analysis.model.handle import Model, describe, probes
from analysis.model.pretrained import Loaded, load_pretrained, loaded_in_memory
from analysis.model.readout import find_readout, norm_form
from analysis.model.transformers_io import drop_unused
from analysis.tracing import storage


def build_model(loaded: Any) -> Model:
    """Find the residual stream and the readout of a model from ``load_pretrained``.

    Raises:
        UnsupportedModelError: If its blocks are not sums of what their modules write, or it can't
            run.
    """
    hf = loaded.model.eval()
    hf.set_attn_implementation(attention_hooks.EAGER)
    embedding = hf.get_input_embeddings().weight
    tokens = probes(int(embedding.shape[0]), embedding.device)
    try:
        stream, records = find_stream(hf, tokens)
    except AnalysisError:
        raise
    except Exception as error:
        raise UnsupportedModelError(
            f"{type(hf).__name__} fails on a random prompt: {str(error)[:300]}",
            "Choose another model.",
        ) from error
    for block in stream.blocks:
        if block.post_norm is not None and norm_form(block.post_norm, stream.d_model) is None:
            block.projection = block.post_norm = None  # the heads can't be told apart behind it
    drop_unused(hf, tokens[0], records[0])
    readout = find_readout(hf, stream, records[0])
    info = describe(loaded, stream, readout, records[0])
    model = Model(hf, loaded.tokenizer, stream, readout, info, check)
    hf.register_forward_pre_hook(partial(storage.check_pass, model), with_kwargs=True)
    return model


def load_model(name: Any, tokenizer: Any = None, *, dtype: Any = None, device: Any = None) -> Model:
    """Load a model and find its residual stream's writers.

    Args:
        name: A catalogue name, hub id, local folder, ``path/to/file.gguf``, or base+adapter. Or a
            Hugging Face model in memory, or an object of nnsight or TransformerLens that wraps
            one. It stays the same object, in evaluation mode, without gradients, and with eager
            attention that is observed.
        tokenizer: The tokenizer of a model in memory; that of the object unless given.
        dtype: "float32", "bfloat16" or "float16"; by entry or setting unless given, else float32.
        device: "cuda", "cpu", or "spread" for all CUDA devices together; by entry or
            setting unless given, else the best one available.

    Raises:
        UnknownModelError: If there is no model of this name.
        ModelLoadError: If it can't be loaded: truncated, pickled, gated, too large; or if there is
            no model in an object.
        UnsupportedModelError: If it loads, but one of the identities 1 to 5 fails on it.
        SpecError: If a model in memory is given with a dtype or device, or a name with a tokenizer.
    """
    model = build_model(_loaded(name, tokenizer, dtype, device))
    require(model)
    return model


def _loaded(name: Any, tokenizer: Any, dtype: Any, device: Any) -> Loaded:
    if isinstance(name, (str, PathLike)) or not hasattr(name, "__dict__"):
        if tokenizer is not None:
            raise SpecError(
                "A model that is loaded by its name has its own tokenizer.", "Leave it out."
            )
        return load_pretrained(_text(name), dtype=dtype, device=device)
    if dtype is not None or device is not None:
        raise SpecError(
            "A model in memory keeps its dtype and device.", "Convert or move the model first."
        )
    return loaded_in_memory(name, tokenizer)


def _text(name: Any) -> str:
    path = fspath(name) if isinstance(name, (str, PathLike)) else None
    if not isinstance(path, str) or not path:
        raise UnknownModelError(
            f"A model's name can't be {type(name).__name__}.",
            "Give a catalogue name, a hub id, a folder, or a .gguf file.",
        )
    return path
