"""What can go wrong, in words a person can act on.

Every error that may reach a user is an ``AnalysisError``: ``message`` says what
happened, ``hint`` what to try. They cross the pipe between the web process and
the model worker, so each is rebuilt from its arguments alone.
"""

from __future__ import annotations

from typing import Any, ClassVar


class AnalysisError(Exception):
    """Something a person can be told.

    Args:
        message: What happened, one sentence.
        hint: What to try, one sentence; may be empty.
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
    """An option has a value that means nothing: a layer or position out of range."""


class UnknownModelError(AnalysisError):
    """No model goes by this name."""


class ModelLoadError(AnalysisError):
    """The model exists but can't be loaded: cut off, pickled, gated, too large."""


class UnsupportedModelError(AnalysisError):
    """The model loads, but an identity that every picture stands on fails."""


class StoreError(AnalysisError):
    """The memo folder can't be used."""


class WorkerStoppedError(AnalysisError):
    """The model worker died while it worked on this request."""


class BusyError(AnalysisError):
    """More is asked of the server than it can queue."""


class DeadlineError(AnalysisError):
    """The request took longer than the server allows."""


class CancelledError(AnalysisError):
    """The user, or the server's shutdown, asked for the work to stop."""

    def __init__(self, message: str = "Cancelled.", hint: str = "") -> None:
        super().__init__(message, hint)


def rebuild(kind: str, message: str, hint: str) -> AnalysisError:
    """Make the error that another process described by class name, message and hint.

    Returns:
        An error of that class, or a plain ``AnalysisError`` where there is no such class.
    """
    return AnalysisError.types_by_name.get(kind, AnalysisError)(message, hint)
