"""The prompts of an experiment: their token ids, or an error that names the prompt."""

from __future__ import annotations

from typing import Any

from analysis.errors import PromptError
from analysis.experiments.specs import FIELDS
from analysis.model.handle import Model
from analysis.tracing.capture import prompt_ids


def read(model: Model, name: str, prompt: Any, longest: int | None = None) -> tuple[int, ...]:
    """Token ids of a prompt.

    Args:
        model: From ``load_model``.
        name: The field of the spec, one of ``FIELDS``.
        prompt: Text or token ids.
        longest: The most tokens that the server reads.

    Raises:
        PromptError: If the prompt is invalid or too long, or if the model has no token for a part
            of a text. Such texts would all be the same prompt to the model.
    """
    try:
        ids = prompt_ids(model, prompt)
    except PromptError as error:
        raise PromptError(f"{FIELDS[name]} can't be read. {error.message}", error.hint) from error
    if longest is not None and len(ids) > longest:
        raise PromptError(
            f"{FIELDS[name]} has {len(ids)} tokens; this server reads at most {longest}.",
            "Shorten it, or raise STRATASCOPE_MAX_PROMPT_TOKENS.",
        )
    lost = ids.count(_unknown(model.tokenizer)) if isinstance(prompt, str) else 0
    if lost:
        raise PromptError(
            f"{FIELDS[name]} has {lost} unknown token{'s' * (lost > 1)} of {len(ids)}: the model"
            " has no token for that text, and reads the same placeholder for all of it.",
            "Write text that the model knows, or choose another model.",
        )
    return ids


def _unknown(tokenizer: Any) -> int | None:
    """The id of the placeholder; None if there is none, or if the token has another use too."""
    found = getattr(tokenizer, "unk_token_id", None)
    others = {getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos")}
    return None if found in others else found
