"""The page's texts, word for word, against numbers of the plain model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import analysis
from analysis.lens.specs import LensSpec
from analysis.reports.specs import EmbeddingSpec, SimilaritySpec
from analysis.tracing.specs import RunResult, RunSpec
from dash_app.page.token_labels import label, percent, token_markup
from dash_app.state.context import trace_of
from dash_app.state.selection import RunRef, Selection
from dash_app.views import attention, curves, disagreement, model, story, tokens
from dash_app.views.flow import head as flow
from dash_app.views.heatmap import actions as lens
from tests.numerical import reference
from tests.numerical.conftest import Case
from tests.numerical.lens.test_grid import matrices, slow_norm, softmax
from tests.numerical.views.test_page_numbers import direct
from tests.support.true_service import TrueService


@dataclass(frozen=True)
class Page:
    """A run on the page, and the same run by plain arithmetic."""

    service: TrueService
    ref: RunRef
    result: RunResult
    case: Case
    slow: reference.Slow

    def probs(self, row: int, pos: int) -> np.ndarray:
        """[vocab] the lens at a cell."""
        state = slow_norm(self.case, self.slow.rows[row][pos], "full")
        return softmax(matrices(self.case)[1] @ state)

    def name(self, token: int, limit: int = 28) -> str:
        """A token as the page writes it."""
        text = self.case.model.tokenizer.decode([token])
        known = {one.id: one for one in (*self.result.vocabulary, *self.result.tokens)}
        return label(known[token], limit) if token in known else text


@pytest.fixture(scope="module")
def page(tiny_llama_dir: Path) -> Page:
    name, prompt = str(tiny_llama_dir), "the capital of France is one two"
    service, opened = TrueService(name), analysis.load_model(name)
    result = service.ask(name, RunSpec(name, prompt, new_tokens=2))
    ids, info = result.token_ids, result.info
    ref = RunRef(
        model=name, prompt=prompt, new=2, token_ids=ids, prompt_length=result.prompt_length,
        layers=info.layers, heads=info.heads, vocab=info.vocab, layer=1,
    )  # fmt: skip
    case = Case(opened, analysis.trace(opened, ids))
    return Page(service, ref, result, case, reference.forward(opened.hf, ids))


def words(part: Any) -> list[str]:
    """Every text among components, in order."""
    if isinstance(part, (str, int, float)):
        return [str(part)]
    if isinstance(part, (list, tuple)):
        return [text for one in part for text in words(one)]
    return words(getattr(part, "children", None) or [])


def after(found: list[str], name: str) -> str:
    """The text that follows a name."""
    return found[found.index(name) + 1]


def test_the_strip(page: Page) -> None:
    chips = tokens.draw(page.service, page.ref, Selection(pos=3))
    assert len(chips) == len(page.ref.token_ids)
    for pos, chip in enumerate(chips[1:], 1):
        probs, own = page.probs(3, pos - 1), page.ref.token_ids[pos]
        said = words(chip)
        assert said[:3] == [str(pos), page.name(own), percent(float(probs[own]))]
        others = [token for token in np.argsort(-probs)[:5].tolist() if token != own][:3]
        wanted = [text for token in others
                  for text in (page.name(token, 12), percent(float(probs[token])))]  # fmt: skip
        assert said[3:] == (wanted if pos >= page.ref.prompt_length else [])


@pytest.mark.parametrize("layer", [0, 2])
def test_the_heads(page: Page, layer: int) -> None:
    pos = 5
    figure, heads, line, *_ = attention.draw(
        page.service, page.ref, Selection(layer=layer, pos=pos, heads=(1, 3)), "light"
    )
    sizes = np.array([np.linalg.norm(head[pos].sum(0)) for head in page.slow.vectors[layer]])
    wanted = ["mean"]
    for head in np.argsort(-sizes).tolist():
        wanted += [f"H{head}", percent(float(sizes[head] / sizes.sum()))]
    assert words(heads) == wanted
    titles = " ".join(note["text"] for note in figure["layout"]["annotations"])
    assert f"writes {percent(float(sizes[3] / sizes.sum()))}" in titles
    read = page.slow.patterns[layer][[1, 3], pos].mean(0)
    assert line.endswith(f"most: {percent(float(read.max()))}.")
    key = int(read.argmax())
    assert f"reads {'itself' if key == pos else page.name(page.ref.token_ids[key])}" in line


@pytest.mark.parametrize(("row", "pos"), [(2, 4), (3, 6)])
def test_the_chosen_cell(page: Page, row: int, pos: int) -> None:
    page.service.ask(trace_of(page.ref), LensSpec())
    shown = lens.draw(page.service, page.ref, Selection(row=row, pos=pos), "light").values
    said, probs = words(shown[3]), page.probs(row, pos)
    assert after(said, "Next token") == page.name(page.ref.token_ids[pos + 1])
    assert after(said, "Token") == f"{page.name(page.ref.token_ids[pos])}  (position {pos})"
    assert after(said, "Entropy") == f"{-(probs * np.log(probs)).sum():.2f} nats"
    final = page.probs(3, pos)
    divergence = abs((final * np.log(final / probs)).sum())
    assert after(said, "KL to final").lstrip("-") == f"{divergence:.2f} nats"
    best, below = np.argsort(-probs)[:5].tolist(), page.probs(row - 1, pos)
    start = said.index("Candidates ") + 1
    assert [percent(float(probs[token])) for token in best] == [
        text for text in said[start:] if text.endswith("%")
    ]
    told = shown[0]["data"][0]["customdata"][row][pos]
    assert f"<b>after layer {row - 1}</b>" in told
    assert f"next token {token_markup(page.result.tokens[pos + 1], 18)}" in told
    assert re.findall(r"[\d.]+ %", told) == [percent(float(probs[token])) for token in best]
    assert after(said, "Row below").endswith(f"  {percent(float(below.max()))}")


def test_the_curves_table(page: Page) -> None:
    pos, pins = 4, (7, 200)
    *_, table = curves.draw(page.service, page.ref, Selection(pos=pos, pins=pins), "light")
    said = words(table)
    for token in pins:
        logs = [float(np.log(page.probs(row, pos)[token])) for row in range(4)]
        layer = int(np.diff(np.exp(logs)).argmax())
        middle = page.slow.rows[layer][pos] + page.slow.attn[layer][pos]
        state = slow_norm(page.case, middle, "full")
        between = float(np.log(softmax(matrices(page.case)[1] @ state)[token]))
        made = {"attention": between - logs[layer], "MLP": logs[layer + 1] - between}
        part = max(made, key=made.__getitem__)
        at = said.index(f"layer {layer}, {part}")
        size = f" ({made[part]:+.1f} of {logs[layer + 1] - logs[layer]:+.1f} nats)"
        assert said[at + 1] == size.replace("-", "−")


def test_the_sentence(page: Page) -> None:
    pos = 6
    said = "".join(words(story.draw(page.service, page.ref, Selection(pos=pos))))
    token = int(page.probs(3, pos).argmax())
    leads = [int(page.probs(row, pos).argmax()) == token for row in range(4)]
    first, stays = leads.index(True), min(row for row in range(4) if all(leads[row:]))
    states = ["at the embedding", *(f"after layer {row - 1}" for row in range(1, 4))]
    assert f"lead {states[first]}" in said or f"leads {states[first]}" in said
    assert f"{states[stays]} and keeps it" in said or f"for good {states[stays]}" in said
    along = direct(page.case, page.slow, pos, token)
    parts = {f"layer {n}, MLP": float(mlp[pos] @ along) for n, mlp in enumerate(page.slow.mlp)}
    for layer, vectors in enumerate(page.slow.vectors):
        for head, vector in enumerate(vectors):
            parts[f"layer {layer}, head {head}"] = float(vector[pos].sum(0) @ along)
    most = max(parts, key=parts.__getitem__)
    assert f"{most} ({parts[most]:+.1f} logits" in said


def test_a_links_facts(page: Page) -> None:
    layer, source, target, head = 1, 2, 5, 3
    chosen = Selection(link=f"attention:{layer}:{source}:{target}:{head}")
    said = words(flow.inspect(page.service, page.ref, chosen))
    vector = page.slow.vectors[layer][head, target, source]
    whole = page.slow.rows[layer][target] + page.slow.attn[layer][target]
    length, share = np.linalg.norm(vector), np.linalg.norm(vector) / np.linalg.norm(whole)
    assert after(said, "Norm") == f"{length:.2f}, {percent(float(share))} of the state's norm"
    read = [
        softmax(matrices(page.case)[1] @ slow_norm(page.case, state, "full"))
        for state in (whole, vector, whole - vector)
    ]
    alone, without = ((read[0] * np.log(read[0] / other)).sum() for other in read[1:])
    assert after(said, "KL alone").startswith(f"{alone:.2f} nats")
    assert after(said, "KL without").startswith(f"{without:.3f} nats")


def test_the_text_on_disagreement(page: Page) -> None:
    chosen = Selection(readers=("output", "input"))
    disagreement.compute(page.service, page.ref, chosen, lambda *_: None)
    *_, note, _ = disagreement.draw(page.service, page.ref, chosen, "light", None)
    same, apart = [], []
    for rows in page.slow.rows:
        for state in rows:
            one, other = (
                softmax(rows_of @ slow_norm(page.case, state, "full"))
                for rows_of in matrices(page.case)
            )
            mean = (one + other) / 2
            apart.append(sum((p * np.log(p / mean)).sum() for p in (one, other)) / 2)
            same.append(one.argmax() == other.argmax())
    assert f"{np.mean(same):.0%} of pairs have the same best token" in note
    assert f"mean divergence {np.mean(apart):.2f} nats" in note


def test_the_reports_on_the_model(page: Page) -> None:
    page.service.ask(page.ref.model, EmbeddingSpec())
    spec = SimilaritySpec(norm="none")
    page.service.ask(trace_of(page.ref), spec)
    shown, _ = model.draw(page.service, page.ref, Selection(), "light", None)
    said = words(shown)
    e_in, e_out = matrices(page.case)
    inner, outer = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (e_in, e_out))
    near = inner @ outer.T
    for name, table in (
        ("Own output row is nearest to the input row", near),
        ("Own input row is nearest to the output row", near.T),
    ):
        hits = np.mean(table.argmax(1) == np.arange(len(table)))
        assert after(said, name) == percent(float(hits))
    ranks = (near > near.diagonal()[:, None]).sum(1)
    assert after(said, "Median rank of the own row") == f"{np.median(ranks) + 1:,.0f} (all)"
    sizes = [np.linalg.norm(rows, axis=1).mean() for rows in (e_in, e_out)]
    assert after(said, "Mean norm of input, output rows") == f"{sizes[0]:.3g}, {sizes[1]:.3g}"
    inside = sum(np.linalg.norm(state) < 1 for rows in page.slow.rows for state in rows)
    count = 4 * len(page.ref.token_ids)
    whole = f"{count:,} states of this run ({count:,} in all), {inside:,} of them inside the unit"
    assert any(text.startswith(whole) for text in said)
