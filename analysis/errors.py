"""Typed errors.

Every error that may reach a user is an ``AnalysisError``: ``message`` says what happened, ``hint``
what to try. Errors cross the pipe between the web process and the model worker, so each can be
rebuilt from its arguments.
"""

from __future__ import annotations

from typing import Any, ClassVar


class AnalysisError(Exception):
    """Base of all errors that may reach a user.

    Args:
        message: What happened, in one sentence.
        hint: What to try, in one sentence; may be empty.
    """

    types_by_name: ClassVar[dict[str, type[AnalysisError]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        AnalysisError.types_by_name[cls.__name__] = cls

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class PromptError(AnalysisError):
    """The prompt is empty, too long, or holds an id that the model lacks."""


class SpecError(AnalysisError):
    """An option has an invalid value, such as a layer or position out of range."""


class ModelMismatchError(SpecError):
    """The states of two models can't be compared one by one: layers or tokenizers differ."""


class BackwardError(SpecError):
    """The model can't run backward, so it has no gradients."""


class UnknownModelError(AnalysisError):
    """There is no model of this name."""


class ModelLoadError(AnalysisError):
    """The model exists but can't be loaded: truncated, pickled, gated, or too large."""


class UnsupportedModelError(AnalysisError):
    """The model loads, but an identity fails on it."""


class NonFiniteError(AnalysisError):
    """A forward pass gave NaN or infinite numbers."""


class NotEnoughMemoryError(AnalysisError):
    """Work needs more memory or disk space than is free; the message has both figures."""


class StoreError(AnalysisError):
    """The memo folder can't be used."""


class MissingPackageError(AnalysisError):
    """An optional package is needed and not installed; the hint says how to install it."""


class WorkerStoppedError(AnalysisError):
    """The model worker ended during this request."""


class BusyError(AnalysisError):
    """The server's queue is full."""


class DeadlineError(AnalysisError):
    """The request exceeded the server's time limit."""


class CancelledError(AnalysisError):
    """The user, or the server's shutdown, cancelled the work."""

    def __init__(self, message: str = "Cancelled.", hint: str = "") -> None:
        super().__init__(message, hint)


def rebuild(kind: str, message: str, hint: str) -> AnalysisError:
    """Rebuild another process's error from its class name, message and hint.

    Returns:
        An error of that class, or a plain ``AnalysisError`` if there is no such class.
    """
    return AnalysisError.types_by_name.get(kind, AnalysisError)(message, hint)
