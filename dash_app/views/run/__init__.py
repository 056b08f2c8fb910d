"""Model, prompt, Run and Cancel: request a run, compute its first results, report on it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from dash import Dash, Input, Output, State, ctx, no_update, set_props

from analysis.contract.specs import InfoSpec
from analysis.errors import AnalysisError, CancelledError, PromptError, SpecError, UnknownModelError
from analysis.lens.specs import LensSpec
from analysis.tracing.specs import RunResult, TraceSpec
from analysis.trajectory.specs import Story, StorySpec
from dash_app.errors import explain, without_folders
from dash_app.jobs.job_and_draw import (
    JobParts,
    Work,
    problem_to_store,
    register_work,
    stored_problem,
)
from dash_app.page.panel import notice, problem_notice
from dash_app.page.window import opening_position
from dash_app.state.branches import MAX_BRANCHES, MAX_OWN, written
from dash_app.state.context import (
    PARTS,
    Context,
    Drawing,
    EventHandler,
    Happened,
    Mirror,
    NewJob,
    PageId,
    Requests,
    Service,
    View,
    join,
    read_run,
)
from dash_app.state.selection import RunRef, Selection, request_run, resolve, run_spec
from dash_app.state.update import notices
from dash_app.views.run.layout import RunId, chips, examples, layout

#: Up to this many tokens, a run computes every column of the heatmap.
SHORT = 16


def perform(context: Context, asked: Selection, job: NewJob) -> RunRef:
    """Compute the first results of a run, so that they are in the memo.

    For a long prompt, they include only one column of the heatmap; the view requests the others.

    Raises:
        AnalysisError: With a message for the page.
    """
    _check(context, asked)
    service: Service = context.service
    run = service.ask(asked.model, run_spec(asked), job(0.0, 0.4))
    trace = TraceSpec(asked.model, run.token_ids)
    service.ask(trace, _opening(run), job(0.4, 0.95))
    story = service.ask(trace, StorySpec(opening_position(run)), job(0.95, 1.0))
    return _reference(asked, run, story)


def remembered(context: Context, asked: Selection) -> dict[str, Any] | None:
    """What ``status`` would return, if all first results are in the memo; else None."""
    try:
        _check(context, asked)
        run = context.service.peek(asked.model, run_spec(asked))
        if run is None:
            return None
        trace = TraceSpec(asked.model, run.token_ids)
        story = context.service.peek(trace, StorySpec(opening_position(run)))
        grids = (context.service.peek(trace, spec) for spec in (LensSpec(), _opening(run)))
        if story is None or all(grid is None for grid in grids):
            return None
    except AnalysisError:
        return None  # the job reports the error
    return {"attempt": asked.attempt, "run": _reference(asked, run, story).model_dump()}


def _opening(run: RunResult) -> LensSpec:
    """The part of the heatmap that a run computes."""
    if len(run.tokens) <= SHORT:
        return LensSpec()
    return LensSpec(positions=(opening_position(run),))


def _reference(asked: Selection, run: RunResult, story: Story) -> RunRef:
    request = {name: getattr(asked, name) for name in PARTS["request"]}
    return RunRef(
        **request,
        token_ids=run.token_ids,
        prompt_length=run.prompt_length,
        opening=opening_position(run),
        layers=run.info.layers,
        heads=run.info.heads,
        vocab=run.info.vocab,
        layer=story.step_layer,
    )


def _check(context: Context, asked: Selection) -> None:
    if asked.model not in {name for name, _ in context.models}:
        raise UnknownModelError(
            f"This server does not offer the model {asked.model!r}.",
            "Pick one from the list. STRATASCOPE_MODELS adds more.",
        )
    if not asked.prompt.strip():
        raise PromptError("The prompt is empty.", "Type some text, or click an example.")
    most, begun = context.settings.max_new_tokens, len(run_spec(asked).begun)
    if asked.new + begun > most:
        already = f" after {begun} of the answer" if begun else ""
        raise SpecError(
            f"{asked.new} new tokens{already} are more than this server allows.",
            f"Choose at most {max(most - begun, 0)}.",
        )


def status(context: Context, asked: Selection, job: NewJob) -> dict[str, Any] | None:
    """How a request ended, for the store STATUS: a run, or a problem.

    None if it was cancelled: the page has already reported that, and may have sent a new request.
    """
    try:
        return {"attempt": asked.attempt, "run": perform(context, asked, job).model_dump()}
    except CancelledError:
        return None
    except Exception as error:  # noqa: BLE001 - the page shows any error
        return {"attempt": asked.attempt, **problem_to_store(error)}


#: Shown with a refusal, because the views below do not belong to what was typed.
OLD = "The views still show “{prompt}”{model}."


def shortened(prompt: str) -> str:
    """The beginning of a prompt."""
    return prompt if len(prompt) <= 60 else f"{prompt[:59]}…"


def messages(context: Context, happened: Happened, selection: Selection) -> list[Any] | None:
    """The page's messages after a gesture or a result; None leaves them as they are."""
    ended = happened.ended or {}
    run = read_run(ended.get("run"))
    lines = notices(happened.ignored, selection, run, happened.full)
    failure = stored_problem(ended)
    shown = [
        *(problem_notice(problem) for problem in happened.problems),
        *([problem_notice(failure)] if failure else []),
        *([notice(happened.refused, kind="danger")] if happened.refused else []),
        *_warnings(lines),
    ]
    if (failure or happened.refused) and happened.shown is not None:
        other = happened.shown.model != selection.model
        model = f" on {happened.shown.model}" if other else ""
        shown.append(notice(OLD.format(prompt=shortened(happened.shown.prompt), model=model)))
    if happened.ended and context.service.problem:
        shown += _warnings([without_folders(context.service.problem)])
    return shown if shown or happened.requested or happened.ended else None


def messages_at_once(sources: frozenset[str]) -> list[Any]:
    """The page's messages after Cancel, or after they were dismissed."""
    if RunId.CANCEL in sources:
        return [notice("Cancelled.", "Your prompt is kept. Press Run to start again.")]
    return []


def _warnings(lines: Sequence[str]) -> list[Any]:
    return [notice(line, kind="warning") for line in lines]


def model_chips(service: Service, run: RunRef, _selection: Selection) -> Any:
    """Facts about the run's model."""
    try:
        return chips(service.ask(run.model, InfoSpec()))
    except Exception as error:  # noqa: BLE001 - logged; the page works without the chips
        explain(error)
        return no_update


def continue_with(sent: Any, current: Selection, run: RunRef | None) -> Selection:
    """The branch that continues the answer with a text of one's own.

    The text follows the selected token, or the prompt if a token of the prompt is selected.
    """
    text = str(sent or "")[:MAX_OWN]
    if run is None or run.attempt != current.attempt or not text:
        return current
    start = run.prompt_length
    end = max(resolve(current, run).pos + 1, start)
    branch = written(run.token_ids[start:end], text)
    kept = [one for one in current.branches if one != branch]
    branches = (*kept[: MAX_BRANCHES - 1], branch)
    return request_run(current, branch=branch, branches=branches, pos=end - 1)


#: The browser reads the form when Run is pressed (``assets/js/controls.js``). On the pages Model
#: and Compare, the menu of models requests a run at once. What was typed stays.
MIRRORS = {
    name: Mirror(component, (RunId.BUTTON, RunId.MODEL))
    for name, component in (
        ("model", RunId.MODEL),
        ("prompt", RunId.PROMPT),
        ("new", RunId.NEW),
        ("template", RunId.TEMPLATE),
        ("sampling", RunId.SAMPLING),
        ("temperature", RunId.TEMPERATURE),
        ("nucleus", RunId.NUCLEUS),
        ("seed", RunId.SEED),
    )
}
JOB = JobParts(RunId.LAST, RunId.PROGRESS, RunId.CANCEL)
CHIPS = Drawing("chips", (Output(RunId.CHIPS, "children"),), model_chips)


def register(app: Dash, context: Context) -> None:
    """Add the job that computes a run, and what the view does without the selection."""

    def prepare(request: Any) -> Work | None:
        return partial(status, context, join(request)) if request else None

    asked = {"request": Input(PageId.ASKED, "data")}
    register_work(app, context, PageId.STATUS, JOB, asked, prepare)

    @app.callback(
        Input(RunId.OWN, "n_submit"),
        State(RunId.OWN, "value"),
        prevent_initial_call=True,
    )
    def go_on(_enter: Any, text: Any) -> None:
        set_props(RunId.WRITTEN, {"data": text or None})

    @app.callback(
        Output(RunId.EXAMPLES, "children"),
        Input(RunId.MODEL, "value"),
        prevent_initial_call=True,
    )
    def offer(model: Any) -> Any:
        return examples(str(model or ""))

    @app.callback(
        Output(PageId.ALERT, "children", allow_duplicate=True),
        Input(RunId.CANCEL, "n_clicks"),
        Input(PageId.DISMISS, "n_clicks"),
        prevent_initial_call=True,
    )
    def at_once(_cancel: Any, _dismiss: Any) -> Any:
        sources = frozenset(str(item["prop_id"]).rpartition(".")[0] for item in ctx.triggered)
        return messages_at_once(sources)


VIEW = View(
    "run",
    layout,
    register,
    events=(EventHandler(RunId.WRITTEN, "data", continue_with),),
    mirrors=MIRRORS,
    drawings=(CHIPS,),
    requests=Requests(remembered, messages, perform),
)
