"""Small random LoRA adapters, saved as peft saves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tests.support import tiny


def write(folder: Path, base: Path, more: int = 0, **options: Any) -> torch.Tensor:
    """Save an adapter of the tiny Llama in ``base``; return its logits of TOKENS, [pos, vocab].

    The adapter adds ``more`` tokens to the vocabulary.
    """
    from peft import LoraConfig, get_peft_model  # a slow import that few tests need

    config = LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **options)
    llama = tiny.tiny_llama()
    if more:
        llama.resize_token_embeddings(tiny.vocab_size() + more)
    adapted: Any = get_peft_model(llama, config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
    adapted.eval()
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(folder)
    logits: torch.Tensor = adapted(input_ids=torch.tensor([TOKENS])).logits[0]
    return logits.detach()


TOKENS = (5, 9, 33, 2, 8, 41)


def change(folder: Path, **values: Any) -> None:
    """Set values in an adapter's configuration."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
