"""Links of an effect graph that are dropped while it grows are dropped at the end as well."""

from __future__ import annotations

from typing import Any

import pytest

import analysis
from analysis.flow_graph import effect
from analysis.flow_graph.results import LINK_KINDS, Graph
from tests.numerical.cut_reference import make
from tests.support import built

TOKENS = (5, 9, 33, 2, 8, 41, 7, 60)
TOKEN = 4


@pytest.mark.parametrize(
    "options",
    [{"budget": 9}, {"threshold": 0.004}, {"top_k": 2}, {"top_k": 3, "budget": 20}],
)
@pytest.mark.parametrize("per_head", [True, False])
def test_links_dropped_on_the_way_are_those_dropped_at_the_end(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], *, per_head: bool
) -> None:
    model = built.understood(make("gpt2"), "gpt2")
    run = analysis.trace(model, TOKENS)
    chosen = {"token": TOKEN, "method": "effect", "per_head": per_head}
    whole = analysis.flow(model, run, **chosen)
    monkeypatch.setattr(effect, "_MANY", 1)
    pruned = []
    prune = effect._Links.prune
    monkeypatch.setattr(effect._Links, "prune", lambda *args: (pruned.append(1), prune(*args))[1])
    found = analysis.flow(model, run, **chosen, **options)
    assert len(pruned) > 2
    assert named(found) == pruned_by_hand(named(whole), **options)
    total = sum(abs(value) for value in named(whole).values())
    drawn = sum(abs(value) for value in named(found).values())
    assert found.hidden_share == pytest.approx(1.0 - drawn / total, abs=1e-6)


def named(graph: Graph) -> dict[tuple[str, int, int, int, int], float]:
    """The effect of each link by kind, layer, head, source and target position, in order."""
    pos = graph.node_pos
    return {
        (LINK_KINDS[kind], layer, head, int(pos[source]), int(pos[end])): float(value)
        for kind, layer, head, source, end, value in zip(
            graph.link_kind.tolist(), graph.link_layer.tolist(), graph.link_head.tolist(),
            graph.link_source.tolist(), graph.link_target.tolist(), graph.link_share.tolist(),
            strict=True,
        )
    }  # fmt: skip


def pruned_by_hand(
    links: dict[tuple[str, int, int, int, int], float],
    threshold: float = 0.0, top_k: int | None = None, budget: int | None = None,
) -> dict[tuple[str, int, int, int, int], float]:  # fmt: skip
    """The rules of pruning, one link at a time."""
    total = sum(abs(value) for value in links.values())
    kept = {link: value for link, value in links.items() if abs(value) > threshold * total}
    if top_k is not None:
        by_state: dict[tuple[int, int], list[Any]] = {}
        for link in kept:
            if link[0] == "attention":
                by_state.setdefault((link[1], link[4]), []).append(link)
        for several in by_state.values():
            for link in sorted(several, key=lambda one: -abs(links[one]))[top_k:]:
                del kept[link]
    if budget is not None:
        kept = dict(sorted(kept.items(), key=lambda item: -abs(item[1]))[:budget])
    return {link: value for link, value in links.items() if link in kept}
