"""One sentence made from a result, in phrases that select what they name."""

from __future__ import annotations

from typing import Any

from analysis.tracing.specs import RunResult
from analysis.trajectory.specs import Story
from dash_app.page.token_labels import percent, quoted

Phrase = tuple[str, dict[str, Any] | None]


def story_phrases(story: Story, run: RunResult) -> list[Phrase]:
    """The story of one token at one position, as phrases to be joined without spaces.

    Each phrase comes with the part of the page's selection it stands for (any of row, pos, layer,
    heads, pin), or None where it stands for nothing.
    """
    return [*_when(story), ("; ", None), *_step(story, run), (".", None)]


def _when(story: Story) -> list[Phrase]:
    token: Phrase = (quoted(story.token), {"pin": story.token.id, "pos": story.position})
    first, stays = story.first_top1, story.saturation
    if first is None:
        return [token, (f" never leads here (it ends at {percent(story.prob)})", None)]
    if stays is None:
        ends = f", but does not stay there (it ends at {percent(story.prob)})"
        return [token, (" first leads at ", None), _row(first, story), (ends, None)]
    if first == stays:
        return [token, (" leads from ", None), _row(first, story), (" on", None)]
    return [
        token,
        (" first leads at ", None),
        _row(first, story),
        (" and stays from ", None),
        _row(stays, story),
    ]


def _row(row: int, story: Story) -> Phrase:
    return f"row {row}", {"row": row, "pos": story.position}


def _step(story: Story, run: RunResult) -> list[Phrase]:
    size = f"{story.step_logit:+.1f} logits".replace("-", "−")
    opening = "what adds most to its logit directly is "
    if story.step_logit <= 0:
        opening = "no head or MLP raises its logit, the one that lowers it least is "
    return [(opening, None), _component(story), (f" ({size}", None), *_source(story, run)]


def _component(story: Story) -> Phrase:
    where: dict[str, Any] = {
        "layer": story.step_layer,
        "row": story.step_layer + 1,
        "pos": story.position,
    }
    if story.step_head is None:
        return f"layer {story.step_layer}, MLP", where
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
