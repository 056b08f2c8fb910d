"""Models of several parts: choose the class to load, and keep the text decoder alone."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor, nn

from analysis.errors import ModelLoadError
from analysis.model.probe import Record

#: Classes that generate text, in the order in which they are tried.
_CLASSES = ("AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForMultimodalLM")


def class_for(config: Any) -> Any:
    """The automatic class that loads the text decoder of a configuration.

    Qwen2-VL, LLaVA, PaliGemma and others have no causal class of their own: their text decoder is
    part of a model that also reads pictures.

    Raises:
        ModelLoadError: If the model does not generate text from text.
    """
    for name in _CLASSES:
        found: Any = getattr(transformers, name)
        if type(config) in found._model_mapping:
            return found
    raise ModelLoadError(
        f"A model of the type {config.model_type} does not continue a text token by token.",
        "Choose a causal language model.",
    )


@torch.no_grad()
def drop_unused(model: Any, probe: Tensor, record: Record) -> None:
    """Remove the parts of a composite model that no text uses, such as its vision tower.

    The model must give the same logits without them; else nothing is removed.

    Args:
        model: A loaded model.
        probe: Token ids [1, pos].
        record: A recorded pass of the probe.
    """
    if model.config.get_text_config() is model.config:
        return
    ran = {id(event.module) for event in record.events}
    removed: list[tuple[nn.Module, str, nn.Module]] = []
    for parent in (model, *model.children()):
        for name, part in list(parent.named_children()):
            if not any(id(inner) in ran for inner in part.modules()):
                removed.append((parent, name, part))
                setattr(parent, name, None)
    if removed and not _same_logits(model, probe, record):
        for parent, name, part in removed:
            setattr(parent, name, part)


def _same_logits(model: Any, probe: Tensor, record: Record) -> bool:
    try:
        logits = model(input_ids=probe, use_cache=False).logits.float().cpu()
    except (AttributeError, TypeError):  # a part is read although it does not run
        return False
    return record.logits is not None and torch.equal(logits, record.logits)
