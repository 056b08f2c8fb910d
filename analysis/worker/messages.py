"""What travels through the pipe between the web process and its model worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from analysis import errors
from analysis.contract.specs import Spec
from analysis.errors import AnalysisError


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what the worker does.

    Attributes:
        max_prompt_tokens: Tokens of a prompt, template included.
        max_new_tokens: Tokens to generate after it.
        model_bytes: Weights kept resident; the least recently used model goes first.
        trace_bytes: Forward passes kept, likewise.
        dtype: Of the weights; None for the model's default.
        device: Where they lie; None to choose.
        tasks: Folder where finished prompts of suites are kept; empty: nowhere.
        task_bytes: Bytes of them.
    """

    max_prompt_tokens: int = 512
    max_new_tokens: int = 64
    model_bytes: int = 4 << 30
    trace_bytes: int = 512 << 20
    dtype: str | None = None
    device: str | None = None
    tasks: str = ""
    task_bytes: int = 512 << 20


@dataclass(frozen=True, slots=True)
class Request:
    """One thing to compute.

    Attributes:
        kind: The technique's name in ``analysis.registry``.
        model: The model's name.
        fingerprint: What identifies its weights.
        specs: What is asked of it.
    """

    kind: str
    model: str
    fingerprint: str
    specs: tuple[Spec[Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """A result as bytes, and what it took.

    Attributes:
        data: ``codec.encode`` of the result.
        fingerprint: Of the model that really made it.
        forwards: Forward passes it took.
        resident: Names of the models that are loaded now.
    """

    data: bytes
    fingerprint: str
    forwards: int = 0
    resident: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """To the worker: do this."""

    number: int
    request: Request
    limits: Limits


@dataclass(frozen=True, slots=True)
class Cancel:
    """To the worker: stop that, if you are at it."""

    number: int


@dataclass(frozen=True, slots=True)
class Ready:
    """From the worker: libraries are imported, send work."""


@dataclass(frozen=True, slots=True)
class Started:
    """From the worker: this is being worked on now."""

    number: int


@dataclass(frozen=True, slots=True)
class Stepped:
    """From the worker: so far has it come."""

    number: int
    done: int
    total: int
    label: str


@dataclass(frozen=True, slots=True)
class Done:
    """From the worker: the answer."""

    number: int
    answer: Answer


@dataclass(frozen=True, slots=True)
class Failed:
    """From the worker: why there is no answer; ``kind`` names a class of ``analysis.errors``."""

    number: int
    kind: str
    message: str
    hint: str

    def error(self) -> AnalysisError:
        """The exception to raise for whoever waits."""
        return errors.rebuild(self.kind, self.message, self.hint)
