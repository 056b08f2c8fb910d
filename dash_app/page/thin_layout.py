"""Draws plain HTML that no callback uses as one component instead of hundreds.

Dash keeps every component of a page in one store, checks each of them at every change, and
registers each new one. With a thousand components a new run cost seconds in the browser. Text,
tables and buttons without callbacks need none of that, so ``thin`` replaces the largest such
subtrees by an ``Inert`` component, which draws the same elements (``assets/js/static_html.js``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from itertools import groupby
from typing import Any

from dash import Dash, Output
from dash.development.base_component import Component

_HTML = "dash_html_components"
#: Elements that load and run nothing; Dash draws all others.
_PLAIN = frozenset({
    "A", "Aside", "B", "Br", "Button", "Code", "Dd", "Details", "Div", "Dl", "Dt", "Em",
    "Figcaption", "Figure", "Form", "H1", "H2", "H3", "H4", "Header", "Label", "Li", "Main", "Ol",
    "P", "Pre", "Section", "Small", "Span", "Strong", "Sub", "Summary", "Sup", "Table", "Tbody",
    "Td", "Th", "Thead", "Tr", "Ul",
})  # fmt: skip


class Inert(Component):
    """HTML elements that no callback uses.

    Args:
        tree: What ``assets/js/static_html.js`` draws: texts, and elements with their tag (``is``),
            attributes (``props``) and ``children``.
    """

    _children_props = []  # noqa: RUF012 - read by Dash, never written
    _base_nodes = []  # noqa: RUF012
    _namespace = "stratascope_components"
    _type = "Inert"

    def __init__(self, tree: list[Any]) -> None:
        self._prop_names = ["tree"]
        self._valid_wildcard_attributes: list[str] = []
        self.available_properties = ["tree"]
        self.available_wildcard_properties: list[str] = []
        base: Any = super()  # Dash has no types for it
        base.__init__(tree=tree)


class Lazy(Component):
    """Draws its children when they are first shown, not before.

    Callbacks write them as usual: Dash keeps their properties, whether or not they are drawn.

    Args:
        children: What is drawn.
        name: Its id. ``assets/js/workspace.js`` sets ``shown`` when the element with this name in
            ``data-lazy`` is first shown. ``shown`` is a property, not a state of the script: only
            then does Dash draw the children with their current properties.
    """

    _children_props = []  # noqa: RUF012 - read by Dash, never written
    _base_nodes = ["children"]  # noqa: RUF012
    _namespace = "stratascope_components"
    _type = "Lazy"

    def __init__(self, children: Any, name: str) -> None:
        self._prop_names = ["children", "id", "shown"]
        self._valid_wildcard_attributes: list[str] = []
        self.available_properties = ["children", "id", "shown"]
        self.available_wildcard_properties: list[str] = []
        base: Any = super()  # Dash has no types for it
        base.__init__(children=children, id=name, shown=False)


class ThinDash(Dash):
    """Dash whose callbacks return thinned components."""

    def callback(self, *args: Any, **options: Any) -> Callable[[Any], Any]:
        """``Dash.callback``, with the components that the function returns thinned."""
        base: Any = super().callback  # Dash has no types for it
        register = base(*args, **options)
        several = sum(isinstance(arg, Output) for arg in args) > 1

        def decorate(function: Any) -> Any:
            @wraps(function)
            def thinned(*values: Any, **named: Any) -> Any:
                found = function(*values, **named)
                if several and isinstance(found, (list, tuple)):
                    return tuple(thin(one) for one in found)
                return thin(found)

            return register(thinned)

        return decorate


def thin(value: Any) -> Any:
    """Make every subtree inert that is plain HTML and has no ids.

    Args:
        value: A component, or a list of them; any other value is returned unchanged.
    """
    if isinstance(value, (list, tuple)):
        return _thin_list(value) if any(isinstance(one, Component) for one in value) else value
    if not isinstance(value, Component):
        return value
    if _is_inert(value):
        return Inert(_tree([value]))
    if "children" in value._prop_names and getattr(value, "children", None) is not None:
        value.children = thin(value.children)
    return value


def _thin_list(values: Iterable[Any]) -> list[Any]:
    """Join inert neighbours into one component."""
    made: list[Any] = []
    for inert, run in groupby(values, lambda one: not _is_live(one)):
        parts = list(run)
        if inert and any(isinstance(part, Component) for part in parts):
            made.append(Inert(_tree(parts)))
        else:
            made += [thin(part) for part in parts]
    return made


def _is_live(value: Any) -> bool:
    return isinstance(value, Component) and not _is_inert(value)


def _is_inert(component: Component) -> bool:
    plain = component._namespace == _HTML and component._type in _PLAIN
    if not plain or getattr(component, "id", None) is not None:
        return False
    return not any(_is_live(child) for child in _children(component))


def _children(component: Component) -> list[Any]:
    inside = getattr(component, "children", None)
    return list(inside) if isinstance(inside, (list, tuple)) else [inside]


def _tree(parts: Iterable[Any]) -> list[Any]:
    return [_element(part) if isinstance(part, Component) else part for part in parts]


def _element(component: Component) -> dict[str, Any]:
    known: Any = component  # Dash has no types for it
    props = {
        name: value for name, value in known.to_plotly_json()["props"].items() if name != "children"
    }
    inside = _tree(_children(component))
    return {"is": component._type.lower(), "props": props, "children": inside}
