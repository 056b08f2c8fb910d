"""What Run does: ask for the results that the page opens with, and refer to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analysis.errors import AnalysisError, CancelledError, PromptError, SpecError, UnknownModelError
from analysis.lens.specs import LensSpec
from analysis.tracing.specs import RunResult, RunSpec, TraceSpec
from analysis.trajectory.specs import Story, StorySpec
from dash_app.jobs.progress import failure, trouble_in
from dash_app.page.panel import notice, trouble
from dash_app.state.context import Context, NewJob, PageId, Service
from dash_app.state.selection import RunRef, Selection
from dash_app.state.stores import join, read_run
from dash_app.state.update import notices
from dash_app.views.run.layout import RunId

#: Tokens up to which the page opens with every column of the heatmap.
SHORT = 16


def perform(context: Context, asked: Selection, job: NewJob) -> RunRef:
    """Compute what the page opens with; all of it is then in the memo.

    Of a long prompt that is one column of the heatmap: the views fetch the rest as they go.

    Raises:
        AnalysisError: In words for the page.
    """
    _check(context, asked)
    service: Service = context.service
    run = service.ask(asked.model, _spec(asked), job(0.0, 0.4))
    trace = TraceSpec(asked.model, run.token_ids)
    service.ask(trace, _opening(run), job(0.4, 0.95))
    story = service.ask(trace, StorySpec(run.prompt_length - 1), job(0.95, 1.0))
    return _reference(asked, run, story)


def remembered(context: Context, asked: Selection) -> dict[str, Any] | None:
    """What ``status`` would say where all that the page opens with is in the memo; else None."""
    try:
        _check(context, asked)
        run = context.service.peek(asked.model, _spec(asked))
        if run is None:
            return None
        trace = TraceSpec(asked.model, run.token_ids)
        story = context.service.peek(trace, StorySpec(run.prompt_length - 1))
        grids = (context.service.peek(trace, spec) for spec in (LensSpec(), _opening(run)))
        if story is None or all(grid is None for grid in grids):
            return None
    except AnalysisError:
        return None  # the job says what is wrong
    return {"attempt": asked.attempt, "run": _reference(asked, run, story).model_dump()}


def _opening(run: RunResult) -> LensSpec:
    """The reading that the page opens with."""
    if len(run.tokens) <= SHORT:
        return LensSpec()
    return LensSpec(positions=(run.prompt_length - 1,))


def _spec(asked: Selection) -> RunSpec:
    chat = asked.template == "on"
    return RunSpec(asked.model, asked.prompt, new_tokens=asked.new, template=chat)


def _reference(asked: Selection, run: RunResult, story: Story) -> RunRef:
    return RunRef(
        model=asked.model,
        prompt=asked.prompt,
        new=asked.new,
        template=asked.template,
        attempt=asked.attempt,
        token_ids=run.token_ids,
        prompt_length=run.prompt_length,
        layers=run.info.layers,
        heads=run.info.heads,
        vocab=run.info.vocab,
        layer=story.step_layer,
    )


def _check(context: Context, asked: Selection) -> None:
    if asked.model not in {name for name, _ in context.models}:
        raise UnknownModelError(
            f"No model on offer is called {asked.model!r}.",
            "Pick one from the list; STRATASCOPE_MODELS adds more.",
        )
    if not asked.prompt.strip():
        raise PromptError("The prompt is empty.", "Type some text, or click an example.")
    most = context.settings.max_new_tokens
    if asked.new > most:
        raise SpecError(
            f"{asked.new} new tokens are more than this server allows.", f"Ask for at most {most}."
        )


def status(context: Context, asked: Selection, job: NewJob) -> dict[str, Any] | None:
    """How a request ended, for the status store: a run, or what went wrong.

    None if it was cancelled: whoever did that has been told, and may have asked for something else.
    """
    try:
        return {"attempt": asked.attempt, "run": perform(context, asked, job).model_dump()}
    except CancelledError:
        return None
    except Exception as error:  # noqa: BLE001 - whatever it is, the page says so and lives on
        return {"attempt": asked.attempt, **failure(error)}


def adopt(
    status_data: dict[str, Any] | None, asked: dict[str, Any] | None, shown: dict[str, Any] | None
) -> Any:
    """The run to show: the one just finished, unless it is shown or another was asked for since."""
    if not status_data or "run" not in status_data:
        return None
    attempt = status_data["attempt"]
    if attempt != join(asked).attempt or (shown or {}).get("attempt") == attempt:
        return None
    return status_data["run"]


def said(sources: frozenset[str], note: dict[str, Any] | None) -> list[Any] | None:
    """What the page says at once to what a person does; None leaves it as it is."""
    if RunId.CANCEL in sources:
        return [notice("Cancelled.", "Your prompt is still there; Run starts it again.")]
    told = (note or {}) if PageId.QUERY in sources else {}
    lines = notices(told.get("ignored", ()), Selection(), None, told.get("full", ()))
    if lines:
        return _shown(lines)
    return [] if sources & {PageId.DISMISS, PageId.REQUEST} else None


def ended(
    status_data: dict[str, Any] | None,
    note: dict[str, Any] | None,
    selected: Selection,
    problem: str = "",
) -> list[Any] | None:
    """What the page says when a request has ended; None if another was made meanwhile.

    An error, what its address got wrong, and ``problem``: that the memo can't be used.
    """
    if (status_data or {}).get("attempt") != selected.attempt:
        return None
    ignored = (note or {}).get("ignored", ())
    run = read_run((status_data or {}).get("run"))
    lines = [*notices(ignored, selected, run), *([problem] if problem else [])]
    wrong = trouble_in(status_data)
    errors = [trouble(wrong)] if wrong else []
    return [*errors, *_shown(lines)]


def _shown(lines: Sequence[str]) -> list[Any]:
    return [notice(line, kind="warn") for line in lines]
