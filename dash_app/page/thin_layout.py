"""Draws plain HTML that no callback uses as one component instead of hundreds.

Dash keeps every component of a page in one store, checks each of them at every change, and
registers each new one. With a thousand components a new run cost seconds in the browser. Text,
tables and buttons without callbacks need none of that, so ``thin`` replaces the largest such
subtrees by an ``Inert`` component, which draws the same elements (``assets/js/static_html.js``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable
from functools import wraps
from itertools import groupby
from typing import Any

from dash import Dash, Output
from dash import html as dash_html
from dash._utils import to_json
from dash.development.base_component import Component

from analysis.store.memo import LruCache

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
        self.tree = tree  # Dash's own initialiser would search for a package of this namespace


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


#: Bytes of layouts that stay in memory.
_LAYOUTS_BYTES = 4 << 20


class ThinDash(Dash):
    """Dash whose callbacks return thinned components, and which makes a page once, not per visit.

    Attributes:
        visitor: Names all that the layout depends on; None makes the layout for each visit.
    """

    visitor: Callable[[], Hashable] | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        self._layouts: LruCache[str] = LruCache(_LAYOUTS_BYTES, len)
        self._frame: tuple[str, str] | None = None
        super().__init__(*args, **options)

    def serve_layout(self) -> Any:
        """The layout as JSON."""
        known = self.visitor
        if known is None:
            return super().serve_layout()  # type: ignore[no-untyped-call]
        key = known()
        text = self._layouts.get(key)
        if text is None:
            as_json: Any = to_json  # Dash has no types for it
            text = str(as_json(self.get_layout()))
            self._layouts.put(key, text)
        return self.backend.make_response(text, mimetype="application/json")

    def keep_frame(self) -> None:
        """Keep the page's links to scripts and styles, and the layout in its configuration as JSON.

        Dash searches all packages for the links, and converts each component, at every visit.
        """
        self._frame = self._generate_scripts_html(), self._generate_css_dist_html()
        as_json: Any = to_json  # Dash has no types for it
        self.validation_layout = json.loads(as_json(self.validation_layout))

    def _generate_scripts_html(self) -> str:
        return self._frame[0] if self._frame else super()._generate_scripts_html()

    def _generate_css_dist_html(self) -> str:
        made: Any = super()  # Dash has no types for it
        return self._frame[1] if self._frame else made._generate_css_dist_html()

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
        return _thin_list(value) if any(map(_is_component, value)) else value
    if not _is_component(value):
        return value
    plain, made = _thinned(value)
    return Inert([made]) if plain else made


def _is_component(value: Any) -> bool:
    return not isinstance(value, str | int | float | None) and isinstance(value, Component)


def _thin_list(values: Iterable[Any]) -> list[Any]:
    return _joined([_thinned(one) for one in values])


def _joined(parts: Iterable[tuple[bool, Any]]) -> list[Any]:
    """Join inert neighbours into one component; text alone stays."""
    made: list[Any] = []
    for plain, run in groupby(parts, lambda part: part[0]):
        values = [value for _, value in run]
        if plain and any(isinstance(value, _Element) for value in values):
            made.append(Inert(values))
        else:
            made += values
    return made


class _Element(dict[str, Any]):
    """An element as ``assets/js/static_html.js`` draws it."""


def _thinned(value: Any) -> tuple[bool, Any]:
    """Whether a part is inert; then its element, or itself if it is text, else the thinned part."""
    if not _is_component(value):
        return True, value
    inside: Any = getattr(value, "children", None)
    several = isinstance(inside, (list, tuple))
    parts = [_thinned(child) for child in (inside if several else [inside])]
    plain = value._namespace == _HTML and value._type in _PLAIN
    if plain and getattr(value, "id", None) is None and all(part[0] for part in parts):
        children = [part[1] for part in parts]
        return True, _Element(
            {"is": value._type.lower(), "props": _props(value), "children": children}
        )
    if inside is not None and "children" in value._prop_names:
        if several and any(isinstance(made, _Element) or not inert for inert, made in parts):
            value.children = _joined(parts)
        elif not several:
            made = parts[0][1]
            value.children = Inert([made]) if isinstance(made, _Element) else made
    return False, value


#: What Dash keeps in a component beside its properties.
_OF_DASH = frozenset((
    "_prop_names", "_valid_wildcard_attributes", "available_properties",
    "available_wildcard_properties", "children",
))  # fmt: skip


def _props(component: Component) -> dict[str, Any]:
    return {name: value for name, value in vars(component).items() if name not in _OF_DASH}


class Elements:
    """Dash's HTML components, made at a tenth of the cost: without lists and checks of each one.

    A view draws a thousand of them in one answer. Use ``html`` as ``dash.html``.
    """

    def __getattr__(self, name: str) -> Callable[..., Component]:
        make = _maker(getattr(dash_html, name))
        setattr(self, name, make)
        return make


def _maker(kind: Any) -> Callable[..., Component]:
    common = vars(kind())
    known = frozenset(common["_prop_names"])

    def make(children: Any = None, **props: Any) -> Component:
        if not known >= props.keys():
            for name in props:
                if name not in known and not name.startswith(("data-", "aria-")):
                    kind(**props)  # raises Dash's own error
        made: Component = kind.__new__(kind)
        vars(made).update(common, children=children, **props)
        return made

    return make


html = Elements()
