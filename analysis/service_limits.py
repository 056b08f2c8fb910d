"""What a server refuses before anything is computed: more than its settings allow."""

from __future__ import annotations

from analysis.errors import PromptError, SpecError
from analysis.service_settings import ServiceSettings
from analysis.specs import RunSpec, Spec, TraceSpec
from analysis.tasks.spec import SuiteSpec

#: Longest text that is looked at; tokens are counted exactly by the model's own tokenizer.
_CHARACTERS_PER_TOKEN = 64


def check(spec: Spec, settings: ServiceSettings) -> None:
    """Refuse a request that is too large for this server.

    Args:
        spec: Any; only prompts, their tokens and suites have a size.
        settings: The limits.

    Raises:
        PromptError: If its prompt is too long.
        SpecError: If it asks for too many new tokens, or a suite of too many prompts.
    """
    if isinstance(spec, RunSpec):
        _check_run(spec, settings)
    elif isinstance(spec, SuiteSpec) and spec.size > settings.max_suite_prompts:
        raise SpecError(
            f"A suite of {spec.size} prompts was asked for; this server runs at most "
            f"{settings.max_suite_prompts}.",
            "Ask for fewer, or raise STRATASCOPE_MAX_SUITE_PROMPTS.",
        )
    elif isinstance(spec, TraceSpec):
        most = settings.max_prompt_tokens + settings.max_new_tokens
        if len(spec.token_ids) > most:
            raise PromptError(
                f"The sequence has {len(spec.token_ids)} tokens; this server reads at most {most}.",
                "Shorten it, or raise STRATASCOPE_MAX_PROMPT_TOKENS.",
            )


def _check_run(spec: RunSpec, settings: ServiceSettings) -> None:
    prompt, new = settings.max_prompt_tokens, settings.max_new_tokens
    if spec.new_tokens > new:
        raise SpecError(
            f"{spec.new_tokens} new tokens were asked for; this server makes at most {new}.",
            "Ask for fewer, or raise STRATASCOPE_MAX_NEW_TOKENS.",
        )
    if len(spec.text) > prompt * _CHARACTERS_PER_TOKEN:
        raise PromptError(
            f"The prompt has {len(spec.text)} characters, far over this server's limit "
            f"of {prompt} tokens.",
            "Shorten it, or raise STRATASCOPE_MAX_PROMPT_TOKENS.",
        )
