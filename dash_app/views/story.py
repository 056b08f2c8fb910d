"""The sentence that sums up a result, in phrases that select what they name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from dash import Dash, Input, Output, State, no_update
from dash.development.base_component import Component

from analysis.contract.specs import PART_NAMES
from analysis.tracing.edits import HOLD
from analysis.tracing.specs import RunResult
from analysis.trajectory.specs import Story, StorySpec
from dash_app.errors import explain
from dash_app.page.panel import aria, select_button, target
from dash_app.page.thin_layout import html
from dash_app.page.token_labels import at_row, percent, quoted
from dash_app.state.context import Context, Drawing, PageId, Service, View, result_of, trace_of
from dash_app.state.edited_run import Change, change
from dash_app.state.exports import Export
from dash_app.state.selection import RunRef, Selection, resolve, toggle

_TASK = re.compile(r"\s*(\d{1,400})\s*([+\-−*×])\s*(\d{1,400})\s*=\s*")
_NUMBER = re.compile(r"\s*([-−]?(?:\d{1,3}(?:,\d{3})+|\d{1,2000})(?:\.\d{1,9})?)")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the model writes and what is right.

    Attributes:
        task: The calculation in the prompt, for example "5 + 5".
        right: The right number.
        written: The number at the start of the answer; empty if there is none.
        finished: Whether the number ends before the generated text does.
        first_wrong: The answer's character at which the number first differs from the right one;
            None if none does.
    """

    task: str
    right: str
    written: str
    finished: bool
    first_wrong: int | None

    @property
    def is_right(self) -> bool:
        """Whether the number is complete and right; leading zeros do not matter."""
        return self.finished and self.written != "" and _value(self.written) == int(self.right)


def judge(prompt: str, answer: str) -> Verdict | None:
    """Judge the answer to a calculation with two whole numbers; None for any other prompt.

    A number that runs to the end of the generated text counts as finished if it is right or can't
    become right.
    """
    task = _TASK.fullmatch(prompt)
    if task is None:
        return None
    right = str(_result(int(task[1]), task[2], int(task[3])))
    found = _NUMBER.match(answer)
    name = f"{task[1]} {task[2]} {task[3]}"
    if found is None:
        return Verdict(name, right, "", bool(answer.strip()), None)
    written = found[1]
    digits = written[_leading_zeros(written, right) :]
    ended = found.end() < len(answer) or not right.startswith(digits) or digits == right
    wrong = _first_difference(written, right)
    return Verdict(name, right, written, ended, None if wrong is None else found.start(1) + wrong)


def words(verdict: Verdict) -> str:
    """The verdict as a sentence."""
    equation = f"{verdict.task} = {verdict.right}"
    if not verdict.written:
        return f"The answer does not begin with a number; {equation}."
    if verdict.is_right:
        return f"The model's answer is right: {equation}."
    if not verdict.finished:
        return f"The model has written {verdict.written} so far; {equation}."
    return f"The model's answer {verdict.written} is wrong: {equation}."


def token_at(texts: Sequence[str], character: int) -> int | None:
    """The index of the token that contains a character of the joined texts."""
    end = 0
    for index, text in enumerate(texts):
        end += len(text)
        if character < end:
            return index
    return None


def _result(one: int, sign: str, other: int) -> int:
    if sign == "+":
        return one + other
    return one - other if sign in "-−" else one * other


def _value(text: str) -> Decimal:
    return Decimal(text.replace("−", "-").replace(",", ""))


def _first_difference(written: str, right: str) -> int | None:
    """The first digit that differs; one past the end of ``right`` if ``written`` goes on.

    None if the numbers are equal, or have commas or a decimal point.
    """
    if _value(written) == int(right) or not written.lstrip("-−").isdigit():
        return None
    zeros = _leading_zeros(written, right)
    digits = written[zeros:].replace("−", "-")
    pairs = zip(digits, right, strict=False)
    differs = (at + zeros for at, (one, other) in enumerate(pairs) if one != other)
    return next(differs, len(right) + zeros if len(digits) > len(right) else None)


def _leading_zeros(written: str, right: str) -> int:
    """How many zeros the written number begins with that the right one does not have."""
    return len(written) - len(written.lstrip("0")) if right[0] in "123456789" else 0


TEXT = "story-text"
Phrase = tuple[str, dict[str, Any] | None]


def layout(_context: Context) -> dict[str, Any]:
    """The sentence; before the first run, what the page waits for."""
    sentence = html.Div(
        html.Span("Loading the model and reading the prompt…", className="story-text muted"),
        id=TEXT,
        className="story",
        **aria(live="polite"),
    )
    return {"story": sentence}


def spec(run: RunRef, selection: Selection) -> StorySpec:
    """The request of the sentence."""
    return StorySpec(resolve(selection, run).pos)


def draw(service: Service, run: RunRef, selection: Selection) -> list[Component]:
    """The sentence about the model's own choice at the chosen position.

    What edits did is said of the answer: of the token after the prompt, or a chosen one behind it.
    """
    edits: list[Component] = []
    try:
        asked = spec(run, selection)
        answer = max(asked.position, run.prompt_length - 1)
        edits = sentence(edit_phrases(service, run, answer), selection.pins)
        story = service.ask(trace_of(run), asked)
        result = result_of(service, run)
        phrases = [*story_phrases(story, result), *verdict_phrases(run, result)]
        return [*edits, *sentence(phrases, selection.pins)]
    except Exception as error:  # noqa: BLE001 - shown in place of the sentence
        problem = explain(error)
        text = f"{problem.message} {problem.hint}"
        return [*edits, html.Span(text, className="story-text muted")]


def placeholder(status: dict[str, Any] | None) -> Any:
    """The text in place of the sentence if the first request failed."""
    if not status or "problem" not in status:
        return no_update
    return html.Span(
        "There is no result yet. Read the message above, or click an example.",
        className="story-text muted",
    )


def sentence(
    phrases: Iterable[tuple[str, Mapping[str, Any] | None]], pins: tuple[int, ...] | None
) -> list[Component]:
    """Phrases that name something as buttons that select it; the others as text."""
    return [
        html.Span(text, className="story-text")
        if not names
        else select_button(
            text, _target(names, pins), "story-phrase", label=f"Select {text.strip()}"
        )
        for text, names in phrases
    ]


def _target(names: Mapping[str, Any], pins: tuple[int, ...] | None) -> str:
    values = {name: value for name, value in names.items() if name != "pin"}
    if "pin" in names and pins is not None and names["pin"] not in pins:
        return f"{target(**values)}&{toggle('pins', names['pin'], pins)}"
    return target(**values)


def edit_phrases(service: Service, run: RunRef, position: int) -> list[Phrase]:
    """What the edits did to the baseline's best token; nothing without edits."""
    if not run.edits:
        return []
    before, after = result_of(service, run.baseline), result_of(service, run)
    found = change(service, before, after, trace_of(run), position)
    number = len(run.edits) - (HOLD in run.edits)
    held = " and held attention patterns" if HOLD in run.edits else ""
    count = f"With {number} edit{'' if number == 1 else 's'}{held}, "
    token: Phrase = (quoted(found.token), {"pin": found.token.id, "pos": position})
    return [(count, None), token, *_moved(found, position), (". ", None)]


def _moved(found: Change, position: int) -> list[Phrase]:
    old, new = percent(found.before), percent(found.after)
    verb = "falls" if found.after < found.before else "rises"
    text = f" stays at {new}; " if old == new else f" {verb} from {old} to {new}; "
    if found.leader.id == found.token.id:
        return [(f"{text}it still leads", None)]
    leader: Phrase = (quoted(found.leader), {"pin": found.leader.id, "pos": position})
    return [(text, None), leader, (" leads", None)]


def story_phrases(story: Story, run: RunResult) -> list[Phrase]:
    """The sentence about one token at one position, as phrases to be joined without spaces.

    Each phrase has the part of the selection that it names (any of row, pos, layer, heads, pin), or
    None.
    """
    step = [("; ", None), *_step(story, run)] if story.step_part else []
    return [*_when(story), *step, (".", None)]


def verdict_phrases(run: RunRef, result: RunResult) -> list[Phrase]:
    """Whether the answer to a calculation is right; nothing for other prompts."""
    texts = [token.text for token in result.tokens[run.prompt_length :]]
    verdict = judge(run.prompt, "".join(texts))
    if verdict is None:
        return []
    spoken: list[Phrase] = [(f" {words(verdict)}", None)]
    if verdict.first_wrong is None:
        return spoken
    at = token_at(texts, verdict.first_wrong)
    if at is None:
        return spoken
    position = run.prompt_length + at
    digit: Phrase = (quoted(result.tokens[position]), {"pos": position - 1, "row": run.layers})
    return [*spoken, (" The first wrong digit is in ", None), digit, (".", None)]


def _when(story: Story) -> list[Phrase]:
    token: Phrase = (quoted(story.token), {"pin": story.token.id, "pos": story.position})
    first, stays = story.first_top1, story.saturation
    if first is None:
        return [token, (f" never leads here (it ends at {percent(story.prob)})", None)]
    if stays is None:
        ends = f", but does not keep the lead (it ends at {percent(story.prob)})"
        return [token, (" first leads ", None), _row(first, story), (ends, None)]
    if first == stays:
        return [token, (" takes the lead ", None), _row(first, story), (" and keeps it", None)]
    return [
        token,
        (" first leads ", None),
        _row(first, story),
        (", and for good ", None),
        _row(stays, story),
    ]


def _row(row: int, story: Story) -> Phrase:
    return at_row(row), {"row": row, "layer": max(row - 1, 0), "pos": story.position}


def _step(story: Story, run: RunResult) -> list[Phrase]:
    size = f"{story.step_logit:+.1f} logits".replace("-", "−")
    opening = "the largest direct contribution to its logit is from "
    if story.step_logit <= 0:
        opening = "no component raises its logit; the one that lowers it least is "
    return [(opening, None), _component(story), (f" ({size}", None), *_source(story, run)]


def _component(story: Story) -> Phrase:
    where: dict[str, Any] = {
        "layer": story.step_layer,
        "row": story.step_layer + 1,
        "pos": story.position,
    }
    if story.step_head is None:
        part = story.step_part
        spot = f"{story.step_layer}:{story.position}:{story.position}"
        return f"layer {story.step_layer}, {PART_NAMES[part]}", {
            **where,
            "adds": f"{part}_output",
            "link": f"{part}:{spot}:-1",
        }
    return f"layer {story.step_layer}, head {story.step_head}", {
        **where,
        "heads": [story.step_head],
    }


def _source(story: Story, run: RunResult) -> list[Phrase]:
    source = story.step_source
    if story.step_head is None or source is None:
        return [(")", None)]
    if source == story.position:
        return [(", reading its own position)", None)]
    selection = {"pos": source, "row": story.step_layer}
    return [(", reading ", None), (quoted(run.tokens[source]), selection), (")", None)]


DRAWING = Drawing(
    "story",
    (Output(TEXT, "children"),),
    draw,
    parts=(PageId.CELL, PageId.PINS),
)


def register(app: Dash, _context: Context) -> None:
    """Say in place of the sentence that the first run failed."""

    @app.callback(
        Output(TEXT, "children", allow_duplicate=True),
        Input(PageId.STATUS, "data"),
        State(PageId.RUN, "data"),
        prevent_initial_call=True,
    )
    def first_run_failed(status: Any, shown: Any) -> Any:
        return placeholder(status) if shown is None else no_update


VIEW = View(
    "story",
    layout,
    register,
    drawings=(DRAWING,),
    exports={"story": Export(lambda _service, run, chosen: [spec(run, chosen)])},
)
