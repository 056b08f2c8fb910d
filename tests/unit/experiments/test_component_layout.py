"""Which edges lie on a path from the embedding to the answer."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.experiments.component_layout import Layout, grown, largest, pruned, random_graph

POSITIONS = 3
LAYOUTS = {
    "sequential": Layout((2, 1), (True, True), False),
    "parallel": Layout((2, 1), (True, True), True),
    "attention only": Layout((2, 2), (False, False), False),
}


@pytest.fixture(params=list(LAYOUTS))
def layout(request: pytest.FixtureRequest) -> Layout:
    return LAYOUTS[request.param]


def on_paths(layout: Layout, codes: list[int]) -> set[int]:
    """The edges on a path, found by walking every path from the answer down."""
    edges = [(code, *(int(part[0]) for part in layout.split(np.array([code]), POSITIONS)))
             for code in codes]  # fmt: skip
    found: set[int] = set()

    def walk(sender: int, pos: int, path: tuple[int, ...]) -> None:
        """Follow a sender's inputs; at the embedding the path is whole."""
        if sender == 0:
            found.update(path)
            return
        for code, receiver, source, place in edges:
            one = layout.receivers[receiver]
            later = one.kind in ("key", "value") and place <= pos
            if one.owner == sender and (place == pos or later):
                walk(source, place, (*path, code))

    for code, receiver, source, place in edges:
        if layout.receivers[receiver].kind == "answer":
            walk(source, place, (code,))
    return found


def test_every_pruned_edge_lies_on_a_path_and_no_other(layout: Layout) -> None:
    rng, every = np.random.default_rng(1), layout.all_edges(POSITIONS)
    sizes = set()
    for share in (0.15, 0.3, 0.5, 0.8):
        codes = np.sort(rng.choice(every, int(share * len(every)), replace=False))
        kept = pruned(layout, codes, POSITIONS)
        assert set(kept.tolist()) == on_paths(layout, codes.tolist())
        sizes.add(len(kept))
    assert len(sizes) > 1


def test_a_growing_graph_has_the_pruned_edges_of_each_beginning(layout: Layout) -> None:
    ranked = np.random.default_rng(2).permutation(layout.all_edges(POSITIONS))
    order, sizes = grown(layout, ranked, 30, POSITIONS)
    assert 0 < len(order) <= 30
    assert (np.diff(sizes) >= 0).all()
    beginnings = [
        set(pruned(layout, ranked[:n], POSITIONS).tolist()) for n in range(len(ranked) + 1)
    ]
    for size in np.unique(sizes):
        assert set(order[sizes <= size].tolist()) in beginnings
        assert (sizes <= size).sum() == size
    for count in (5, 30, len(ranked)):
        found = largest(layout, ranked, count, POSITIONS)
        fitting = [one for one in beginnings if len(one) <= count]
        assert set(found.tolist()) == max(fitting, key=len)


def test_the_number_of_edges_is_that_of_the_pairs_of_parts(layout: Layout) -> None:
    pairs = sum(one.reads for one in layout.receivers[:-1])
    assert layout.possible(POSITIONS) == pairs * POSITIONS + len(layout.senders)
    assert len(layout.all_edges(POSITIONS)) == layout.possible(POSITIONS)
    mlp = next((one for one in layout.receivers if one.kind == "mlp"), None)
    assert mlp is None or mlp.reads == (1 if layout.parallel else 3)


def test_random_graphs_are_whole_and_differ(layout: Layout) -> None:
    rng = np.random.default_rng(3)
    graphs = [random_graph(layout, 8, POSITIONS, rng) for _ in range(5)]
    for graph in graphs:
        assert 0 < len(graph) <= 8
        assert np.array_equal(pruned(layout, graph, POSITIONS), graph)
    assert len({graph.tobytes() for graph in graphs}) > 1
    whole = random_graph(layout, layout.possible(POSITIONS), POSITIONS, rng)
    assert np.array_equal(whole, layout.all_edges(POSITIONS))


def test_summed_edges_are_kept_at_every_position(layout: Layout) -> None:
    codes = layout.all_edges(1)
    spread = np.sort(layout.at_all_positions(codes, POSITIONS))
    assert np.array_equal(spread, layout.all_edges(POSITIONS))
