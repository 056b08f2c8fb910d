"""What a browser sends to a callback: looked at before Dash, which trusts it.

Dash finds the callback by the text in ``output`` and hands it whatever values stand beside it. A
body of another shape makes it stumble halfway; here it is refused with a sentence first. What the
values are is the callbacks' own business.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from werkzeug.exceptions import BadRequest

from dash_app.state.context import PageId
from dash_app.state.stores import PARTS

#: Stores that hold an object, or nothing yet.
_OBJECTS = frozenset((*PARTS, PageId.GO, PageId.QUERY, PageId.STATUS, PageId.RUN))
#: Deeper than anything the page sends.
_DEEPEST = 60


def check(raw: bytes, callbacks: Mapping[str, Any]) -> bool:
    """Refuse the body of a callback request that can't be one.

    Args:
        raw: The body.
        callbacks: Dash's own table of callbacks, by output.

    Returns:
        Whether the callback is one that runs in the background.

    Raises:
        BadRequest: Then.
    """
    body = _parsed(raw)
    callback = callbacks.get(body["output"]) if isinstance(body.get("output"), str) else None
    if callback is None or "callback" not in callback:
        raise BadRequest("no such callback")
    _match(body.get("inputs", []), callback["inputs"])
    _match(body.get("state", []), callback["state"])
    _match_outputs(body.get("outputs"), body["output"], bool(callback.get("no_output")))
    changed = body.get("changedPropIds", [])
    if not isinstance(changed, list) or not all(isinstance(name, str) for name in changed):
        raise BadRequest("changedPropIds is no list of names")
    return bool(callback.get("background"))


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw, parse_constant=_refuse)
        if _depth(body) > _DEEPEST:
            raise BadRequest("too deep")
        if b"\\u" in raw:
            json.dumps(body, ensure_ascii=False).encode()  # half a character can't be answered
    except (ValueError, RecursionError) as error:
        raise BadRequest("not JSON") from error
    if not isinstance(body, dict):
        raise BadRequest("not an object")
    return body


def _refuse(_: str) -> Any:
    raise ValueError("not a number of JSON")


def _depth(value: Any) -> int:
    """How deep it nests, found without recursion."""
    deepest, open_ = 0, [(value, 1)]
    while open_:
        found, depth = open_.pop()
        deepest = max(deepest, depth)
        inner = found.values() if isinstance(found, dict) else found
        if isinstance(found, (dict, list)) and depth <= _DEEPEST:
            open_.extend((item, depth + 1) for item in inner)
    return deepest


def _match(sent: Any, declared: list[Mapping[str, Any]]) -> None:
    """Refuse values of other components than the callback has, or in another order."""
    if not isinstance(sent, list) or len(sent) != len(declared):
        raise BadRequest("not the callback's inputs")
    for one, expected in zip(sent, declared, strict=True):
        name = _name(one)
        if name != (str(expected["id"]), expected["property"]):
            raise BadRequest("not the callback's inputs")
        if name[0] in _OBJECTS and not isinstance(one.get("value"), dict | None):
            raise BadRequest("a store holds an object")


def _match_outputs(sent: Any, output: str, no_output: bool) -> None:
    if no_output:
        if sent not in (None, [], {}):
            raise BadRequest("this callback has no outputs")
        return
    wanted = [spec.rpartition(".") for spec in output.strip(".").split("...")]
    names = [(name, prop.partition("@")[0]) for name, _, prop in wanted]
    is_many = output.startswith("..")
    if not isinstance(sent, list if is_many else dict):
        raise BadRequest("not the callback's outputs")
    found = [_name(one) for one in (sent if is_many else [sent])]
    if [(name, prop.partition("@")[0]) for name, prop in found] != names:
        raise BadRequest("not the callback's outputs")


def _name(one: Any) -> tuple[str, str]:
    """Component and property; of two empty texts where it has none."""
    if not isinstance(one, dict):
        return "", ""
    name, prop = one.get("id"), one.get("property")
    return (name, prop) if isinstance(name, str) and isinstance(prop, str) else ("", "")
