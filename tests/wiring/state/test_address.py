"""The URL: written, read back, and never trusted."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dash_app.state.context import PARTS, from_query, join, split, to_query
from dash_app.state.selection import (
    MAX_PINS,
    RunRef,
    Selection,
    out_of_range,
    pinned,
    request_run,
    resolve,
)
from dash_app.state.update import from_link

BASE = Selection(model="smollm2-135m-instruct", prompt="The capital of France is", new=2)
INDEX = st.integers(0, 1_000_000)
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)
SELECTIONS = st.builds(
    Selection,
    model=TEXT,
    prompt=TEXT,
    new=st.integers(0, 10_000),
    row=INDEX,
    pos=INDEX,
    layer=INDEX,
    heads=st.lists(INDEX, max_size=9).map(tuple),
    pins=st.none() | st.lists(INDEX, max_size=MAX_PINS).map(tuple),
    component=st.sampled_from(("block_output", "mlp_output", "head_output")),
    head=INDEX,
    source=st.none() | INDEX,
    decoder=st.sampled_from(("output", "max_probability")),
    norm=st.sampled_from(("none", "full")),
    similarity=st.sampled_from(("dot", "cosine")),
    candidates=st.sampled_from(("top_k", "subtraction")),
    colour=st.sampled_from(("probability", "entropy", "rank_change", "share")),
    asked=st.none() | INDEX,
    part=st.sampled_from(("attention", "mlp")),
    by=st.sampled_from(("norm", "hidden_kl")),
    show=st.sampled_from(("", "all", "answer", "0-127")),
    find=TEXT,
    fold=st.integers(1, 64),
    adds=st.sampled_from(("", "mlp_output")),
    readers=st.lists(st.sampled_from(("output", "input", "linear")), max_size=4).map(tuple),
    differ=st.sampled_from(("jsd", "top1")),
    curve=st.sampled_from(("probability", "rank", "kl")),
    method=st.sampled_from(("effect", "proximity", "attention")),
    theme=st.sampled_from(("auto", "light", "dark")),
)


@given(SELECTIONS)
def test_the_url_restores_the_selection(selection: Selection) -> None:
    assert from_query(to_query(selection, BASE), BASE) == (selection, ())


def test_a_model_with_examples_of_its_own_opens_on_the_first_of_them() -> None:
    opened, _ = from_query("?model=addition-5digit", BASE)
    assert (opened.prompt, opened.new) == ("48217+35968=", 6)
    for prompt in (opened.prompt, BASE.prompt, "1+1="):
        changed = opened.model_copy(update={"prompt": prompt})
        assert from_query(to_query(changed, BASE), BASE) == (changed, ())
    assert from_query("?model=other", BASE)[0].prompt == BASE.prompt


@given(SELECTIONS)
def test_a_new_link_restores_the_selection(selection: Selection) -> None:
    assert from_link(to_query(selection, BASE), BASE) == (selection, ())


@pytest.mark.parametrize(
    ("link", "method"),
    [
        ("", "effect"),
        ("?page=compare", "effect"),
        ("?row=3", "proximity"),
        ("?model=m&prompt=Hello&new=1", "proximity"),
        ("?row=3&method=norm", "norm"),
        ("?method=effect", "effect"),
        ("&".join(f"a{i}=1" for i in range(500)), "proximity"),
    ],
)
def test_a_link_without_a_flow_method_draws_the_flow_that_it_drew_when_it_was_made(
    link: str, method: str
) -> None:
    assert from_link(link, BASE)[0].method == method


@given(SELECTIONS)
def test_the_stores_restore_the_selection(selection: Selection) -> None:
    parts = split(selection)
    assert set(parts) == set(PARTS)
    assert join(*parts.values()) == selection


@given(st.text(max_size=200))
def test_no_query_breaks_the_page(query: str) -> None:
    selection, ignored = from_query(query, BASE)
    assert Selection.model_validate(selection.model_dump()) == selection
    assert all(isinstance(name, str) for name in ignored)


@given(st.sampled_from(sorted(Selection.model_fields)), st.text(max_size=30))
def test_no_value_breaks_the_page(name: str, value: str) -> None:
    selection, _ = from_query(f"?{name}={quote_plus(value, errors='replace')}", BASE)
    assert Selection.model_validate(selection.model_dump()) == selection


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("?row=high", "row"),
        ("?row=-1", "row"),
        ("?pos=1e9", "pos"),
        ("?heads=1,two", "heads"),
        ("?pins=" + ",".join("1" * 20), "pins"),
        ("?colour=pink", "colour"),
        ("?new=999999", "new"),
        ("?nonsense=1", "nonsense"),
        ("?attempt=7", "attempt"),
        ("?prompt=" + "x" * 30_000, "prompt"),
    ],
)
def test_invalid_values_are_dropped_and_named(query: str, name: str) -> None:
    assert from_query(query, BASE) == (BASE, (name,))


def test_valid_values_beside_invalid_ones_apply() -> None:
    selection, ignored = from_query("?row=3&pos=x&heads=1,4", BASE)
    assert (selection.row, selection.pos, selection.heads, ignored) == (3, None, (1, 4), ("pos",))


def test_too_many_fields_are_refused_as_a_whole() -> None:
    assert from_query("&".join(f"a{i}=1" for i in range(500)), BASE) == (
        BASE,
        ("the whole address",),
    )


def test_a_new_request_resets_the_choices_of_the_old_run() -> None:
    old = Selection(row=3, pos=2, layer=1, heads=(1,), pins=(5,), theme="dark", attempt=4)
    new = request_run(old, prompt="2 + 2 =")
    assert (new.row, new.pos, new.layer, new.heads, new.pins) == (None, None, None, (), None)
    assert (new.prompt, new.theme, new.attempt) == ("2 + 2 =", "dark", 5)


def test_blanks_are_filled_from_the_run(run_ref: RunRef) -> None:
    chosen = resolve(Selection(), run_ref)
    assert (chosen.row, chosen.pos, chosen.layer, chosen.heads) == (12, 4, 10, ())


def test_values_outside_the_run_move_to_its_edge(run_ref: RunRef) -> None:
    selection = Selection(row=99, pos=99, layer=99, heads=(1, 99), pins=(1, 99))
    chosen = resolve(selection, run_ref)
    assert (chosen.row, chosen.pos, chosen.layer, chosen.heads) == (12, 6, 11, (1,))
    assert out_of_range(selection, run_ref) == ("row", "pos", "layer", "heads", "pins")
    assert pinned(selection, run_ref, ()) == (1,)


def test_unpinning_everything_stays_empty(run_ref: RunRef) -> None:
    assert pinned(Selection(pins=()), run_ref, (5, 6)) == ()
    assert pinned(Selection(pins=None), run_ref, (5, 6)) == (5, 6)


@pytest.mark.parametrize("data", [{"row": "x"}, {"heads": 3}, {"theme": None}])
def test_a_store_with_invalid_data_is_a_default(data: dict[str, Any]) -> None:
    assert join(data) == Selection()


@pytest.mark.parametrize(
    ("old", "new"), [("norm", "state_norm"), ("cosine", "cosine_before"), ("share", "share")]
)
def test_older_addresses_name_the_same_colour(old: str, new: str) -> None:
    chosen, ignored = from_query(f"colour={old}", Selection())
    assert (chosen.colour, ignored) == (new, ())
