"""Elements that no callback names are drawn unchanged, by one component instead of many."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from dash import Input, Output, dcc, html, no_update
from dash._utils import to_json
from dash.development.base_component import Component

from dash_app.page.panel import select_button
from dash_app.page.thin_layout import Inert, ThinDash, thin
from dash_app.page.thin_layout import html as quick
from dash_app.settings import ASSETS


def elements(value: Any) -> Iterator[Any]:
    """Tags, attributes and texts in the order of the page."""
    if isinstance(value, dict) and "is" in value:
        yield value["is"], value["props"]
        yield from elements(value["children"])
    elif isinstance(value, dict):
        props = {k: v for k, v in value["props"].items() if k not in ("children", "tree")}
        if value["type"] != "Inert":
            yield value["type"].lower(), props
        yield from elements(value["props"].get("tree", value["props"].get("children")))
    elif isinstance(value, list):
        for part in value:
            yield from elements(part)
    elif value is not None:
        yield value


def drawn(component: Any) -> list[Any]:
    return list(elements(json.loads(str(to_json(component)))))


def count(component: Any) -> int:
    """How many components Dash keeps."""
    inside = component if isinstance(component, list) else [component]
    return sum(
        1 + count(getattr(one, "children", None)) for one in inside if isinstance(one, Component)
    )


def sample() -> Component:
    return html.Div(
        [
            html.H2(["Row ", 3, html.Sub("a")], className="title", **{"data-row": "3"}),
            "between",
            html.Table([html.Tr([html.Td("x", colSpan=2), html.Td(None)])], style={"width": 3}),
            html.Div([html.P("before"), dcc.Store(id="kept"), html.P("after"), html.P("it")]),
            html.Details([html.Summary("s"), html.Div(html.B("deep"))], id="menu", open=True),
            select_button("<b>no markup</b>", "pos=4", "button", label="Position 4", pressed=True),
        ],
        role="group",
    )


def test_fewer_components_draw_the_same_elements() -> None:
    assert drawn(thin(sample())) == drawn(sample())
    assert count(sample()) == 17
    # The outer box, three runs of neighbours, the box of the store and the menu, and their insides.
    assert count(thin(sample())) == 9


def test_elements_with_an_id_and_non_html_stay() -> None:
    kept = [
        node.id
        for node in thin(sample())._traverse()
        if isinstance(node, Component) and getattr(node, "id", None)
    ]
    assert kept == ["kept", "menu"]
    assert type(thin(html.Span("text"))) is Inert
    assert type(thin(html.Iframe(src="/"))) is html.Iframe
    graph = dcc.Graph(figure={})
    assert thin(graph) is graph


@pytest.mark.parametrize("value", [None, "text", 3, no_update, {"data": []}, ["a", 1], (1, 2)])
def test_other_values_are_unchanged(value: Any) -> None:
    assert thin(value) is value


@pytest.mark.parametrize("name", ["Div", "Button", "Td", "Details", "A", "Label", "Iframe"])
def test_elements_made_quickly_are_those_of_dash(name: str) -> None:
    attributes: dict[str, Any] = {"id": "one", "title": "", "hidden": None, "data-x": "1"}
    attributes["aria-label"] = "a name"
    for given in ({}, {"children": ["a", 3]}, {"children": None, **attributes}):
        ours, theirs = getattr(quick, name)(**given), getattr(html, name)(**given)
        assert type(ours) is type(theirs)
        assert vars(ours) == vars(theirs)
        assert ours.to_plotly_json() == theirs.to_plotly_json()
        assert json.loads(str(to_json(thin([ours])))) == json.loads(str(to_json(thin([theirs]))))


def test_an_attribute_that_does_not_exist_is_the_error_of_dash() -> None:
    for module in (html, quick):
        with pytest.raises(TypeError, match="unexpected keyword argument: `onclick`"):
            module.Div("a", onclick="alert(1)")
    with pytest.raises(AttributeError):
        _ = quick.Script2


def test_elements_share_no_attributes() -> None:
    one, other = quick.Div("a", title="t"), quick.Div("b")
    assert (one.children, other.children) == ("a", "b")
    assert not hasattr(other, "title")


def test_several_outputs_are_thinned_separately() -> None:
    app = ThinDash(__name__)
    app.layout = html.Div([html.Div(id="one"), html.Div(id="two"), dcc.Store(id="asked")])

    @app.callback(Output("one", "children"), Output("two", "children"), Input("asked", "data"))
    def both(_asked: Any) -> Any:
        return [html.P("first"), [html.P("second"), html.P("third")]]

    @app.callback(Output("asked", "storage_type"), Input("asked", "modified_timestamp"))
    def plain(_asked: Any) -> Any:
        return "memory"

    first, second = both(None)
    assert (type(first), drawn(first)) == (Inert, [("p", {}), "first"])
    assert [type(one) for one in second] == [Inert]
    assert plain(None) == "memory"


def test_the_layout_is_made_once_for_each_visitor() -> None:
    app, names, made = ThinDash(__name__), ["ann"], []

    def build() -> Component:
        made.append(names[0])
        return html.Div(names[0], id="name")

    app.layout = build
    client = app.server.test_client()

    def visit(name: str) -> str:
        names[0] = name
        shown = client.get("/_dash-layout").get_json()
        return str(shown["props"]["children"])

    assert [visit("ann"), visit("bob")] == ["ann", "bob"]
    made.clear()
    app.visitor = lambda: names[0]
    assert [visit("ann"), visit("bob"), visit("ann"), visit("bob")] == ["ann", "bob", "ann", "bob"]
    assert made == ["ann", "bob"]


def test_the_frame_that_is_kept_is_that_of_dash() -> None:
    app = ThinDash(__name__, assets_folder=str(ASSETS))
    app.layout = lambda: html.Div([html.P("a", id="one"), dcc.Store(id="two")])
    client = app.server.test_client()

    def frame() -> str:
        text = client.get("/").get_data(as_text=True)
        return re.sub(r'"end_id":\s*"[^"]+"', "", text)  # differs at each visit

    first = frame()
    assert len(re.findall(r'(?:src|href)="', first)) > 20
    assert '"validation_layout"' in first
    app.keep_frame()
    assert frame() == first
