"""A page without a browser: it imitates Dash's renderer and uses the whole app over HTTP.

It keeps the properties of all components, calls the callbacks whose inputs changed (upstream ones
first), polls background callbacks, and applies the responses. It runs no client-side functions,
except that it sets the colour scheme once.
"""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import brotli

from tests.support.time_limits import PATIENCE_S

#: In place of the body of a response that says that the server lost a job.
LOST = "lost"
#: (output, seconds, status) of every request.
OnCall = Callable[[str, float, int], None]


class PageError(AssertionError):
    """The server sent a response that a page cannot use."""


@dataclass(eq=False)
class Background:
    """A running background callback, and the request that started it."""

    handles: dict[str, str]
    inputs: list[dict[str, Any]]
    changed: list[str]
    due: float = 0.0
    path: str = ""
    body: str = ""
    start: float = field(default_factory=time.monotonic)


@dataclass(eq=False)
class Callback:
    """One callback of the app, from ``_dash-dependencies``."""

    output: str
    inputs: list[Any]
    state: list[Any]
    outputs: list[dict[str, str]]
    initial: bool
    background: dict[str, Any] | None
    running: Background | None = None

    @property
    def is_single(self) -> bool:
        """Whether Dash sends its one output outside of a list; it may have none."""
        return bool(self.outputs) and not self.output.startswith("..")

    def reads(self) -> set[str]:
        """Properties that trigger it."""
        return {name(each) for each in flat(self.inputs)}

    def writes(self) -> set[str]:
        """Properties that it sets."""
        return {name(each) for each in self.outputs}


def name(each: dict[str, Any]) -> str:
    """``id.property``, without the mark of a duplicate output."""
    return f"{each['id']}.{each['property'].partition('@')[0]}"


def flat(specs: list[Any]) -> Iterator[dict[str, Any]]:
    """Inputs or states, with nested lists flattened."""
    for each in specs:
        if isinstance(each, list):
            yield from flat(each)
        else:
            yield each


def emptied(spec: Any) -> Any:
    """An input or state, or a list of them, without its value."""
    return [emptied(each) for each in spec] if isinstance(spec, list) else {**spec, "value": None}


def outputs_of(output: str) -> list[dict[str, str]]:
    """The outputs that a callback's name lists."""
    parts = output.removeprefix("..").removesuffix("..").split("...")
    pairs = (part.rpartition(".") for part in parts if "." in part)
    return [{"id": left, "property": right} for left, _, right in pairs]


@dataclass(eq=False)
class Page:
    """One loaded page.

    Attributes:
        url: Where the app is.
        patient: Whether it waits for a server that restarts, and starts lost jobs again, as
            ``assets/js/net.js`` does.
        on_call: Called after every request.
        props: Values of all properties that were ever set, by ``id.property``.
        pending: Callbacks to call, with their triggers.
        seen: Clicks that were reported.
        drawn: When a picture last changed, on the monotonic clock.
    """

    url: str
    on_call: OnCall = lambda *_: None
    props: dict[str, Any] = field(default_factory=dict)
    pending: dict[str, list[str]] = field(default_factory=dict)
    seen: int = 0
    drawn: float = 0.0
    patient: bool = False

    def __post_init__(self) -> None:
        place = urlsplit(self.url)
        self._http = http.client.HTTPConnection(place.hostname or "", place.port, timeout=120)
        self._headers = {"Accept-Encoding": "br", "Content-Type": "application/json"}
        self._pause = threading.Event()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    # User actions.

    def open(self, search: str = "") -> None:
        """Load the page and wait until it is drawn."""
        text = self.request("GET", f"/{search}", "page").decode()
        found = re.search(r'"end_id":\s*"([^"]+)"', text)
        if found is None:
            raise PageError("the page carries no end_id")
        self.end_id = found[1]
        self._walk(json.loads(self.request("GET", "/_dash-layout", "layout")))
        told = json.loads(self.request("GET", "/_dash-dependencies", "dependencies"))
        self.callbacks = {each["output"]: self._callback(each) for each in told if plain(each)}
        self.props |= {"url.search": search, "scheme.data": "light"}
        self.pending = {output: [] for output, each in self.callbacks.items() if each.initial}
        self.settle()

    def set(self, **values: Any) -> None:
        """Set properties as a user does, ``run_button__n_clicks=1``, and wait for the page."""
        for key, value in values.items():
            component, _, prop = key.partition("__")
            name = component.replace("_", "-")
            if not any(f"{name}.{prop}" in each.reads() for each in self.callbacks.values()):
                raise PageError(f"no callback reads {name}.{prop}")
            self._apply(name, prop, value)
        self.settle()

    def go(self, to: str) -> None:
        """Click something that selects, as ``assets/js/page.js`` reports it."""
        self.seen += 1
        self.set(events__data={"reports": [{"to": to, "n": self.seen}]})

    def ask(self, prompt: str, new: int = 1) -> None:
        """Type a prompt and press Run, without waiting."""
        self.props |= {"run-prompt.value": prompt, "run-new.value": new}
        form = {name: self.props[f"run-{name}.value"] for name in ("model", "prompt", "new")}
        self.seen += 1
        report = {"form": form, "from": "run-button", "n": self.seen}
        self._apply("events", "data", {"reports": [report]})

    def press(self, button: str) -> None:
        """Press a button, without waiting."""
        self._apply(button, "n_clicks", (self.props.get(f"{button}.n_clicks") or 0) + 1)

    def begin(self, output: str) -> None:
        """Continue until only a background callback is running."""
        self.until(lambda: not self.pending)
        if self.callbacks[output].running is None:
            raise PageError(f"{output} is not running")

    def run(self, prompt: str, new: int = 1) -> None:
        """The same, and wait until everything is drawn."""
        self.ask(prompt, new)
        self.settle()

    def cancel(self, button: str = "run-cancel", output: str = "run-last.data") -> None:
        """Press Cancel."""
        each = self.callbacks[output]
        if each.running is not None:
            body = {
                "output": f"{button}.id", "outputs": {"id": button, "property": "id"},
                "inputs": [{"id": button, "property": "n_clicks", "value": 1}],
                "changedPropIds": [f"{button}.n_clicks"], "state": [],
            }  # fmt: skip
            self._post(f"{button}.id", body, cancelJob=each.running.handles["job"])
            each.running = None
        self._apply(button, "n_clicks", 1)

    # The renderer.

    def settle(self, seconds: float = 600.0) -> None:
        """Call and poll until no work is left."""
        late = time.monotonic() + seconds
        while self.step():
            if time.monotonic() > late:
                raise PageError(f"the page is not done: {sorted(self.pending)}")

    def until(self, true: Callable[[], Any], seconds: float = 180.0) -> None:
        """Call and poll until a condition is true.

        Raises:
            PageError: If it is still false after the limit, or no work is left.
        """
        late = time.monotonic() + seconds
        while not true():
            if not self.step() and not true():
                raise PageError(f"it is not so, and nothing is left to do: {self.told()}")
            if time.monotonic() > late:
                raise PageError(f"it is not so after {seconds:.0f} s: {self.told()}")

    def told(self) -> str:
        """The page's alert."""
        return str(self.props.get("alert.children") or "")

    def step(self) -> bool:
        """Do the next step; return whether work is left."""
        each = self._next()
        if each is not None:
            self._fire(each, self.pending.pop(each.output))
            return True
        waiting = [each for each in self.callbacks.values() if each.running is not None]
        for each in waiting:
            self._poll(each)
        return bool(self.pending or waiting)

    def _next(self) -> Callback | None:
        """A callback that depends on no other pending one."""
        ready = [self.callbacks[output] for output in self.pending]
        written = set().union(*(each.writes() for each in ready if not each.background), set())
        for each in sorted(ready, key=lambda one: one.background is not None):
            if not each.reads() & (written - each.writes()):
                return each
        return ready[0] if ready else None

    def _fire(self, each: Callback, changed: list[str]) -> None:
        inputs = [self._filled(spec) for spec in each.inputs]
        query = {}
        if each.running is not None:
            query["oldJob"] = each.running.handles["job"]
        data = self._post(each.output, self._body(each, inputs, changed), **query)
        if each.background and data and "cacheKey" in data:
            each.running = Background(data, inputs, changed, self._later(each), *self._last)
        else:
            self._take(data)

    def _poll(self, each: Callback) -> None:
        running = each.running
        if running is None:
            return
        left = running.due - time.monotonic()
        if left > 0:
            self._pause.wait(min(left, 0.05))
            return
        late = time.monotonic() - running.start - 2.0
        running.due = self._later(each) + min(max(0.1 * late, 0.0), 1.0)  # as net.js
        body = self._body(each, running.inputs, running.changed)
        for part in ("inputs", "state"):  # the renderer leaves the values out
            body[part] = [emptied(spec) for spec in body[part]]
        handles = {"cacheKey": running.handles["cacheKey"], "job": running.handles["job"]}
        if self.patient:
            handles["repeatable"] = "1"
        data = self._post(f"poll {each.output}", body, **handles)
        if data == LOST:
            path = f"{running.path}&{urlencode({'again': handles['cacheKey']})}"
            data = json.loads(self.request("POST", path, f"again {each.output}", running.body))
        if data is None:
            each.running = None
            return
        if "response" in data:
            each.running = None
        for key, value in data.get("progress", {}).items():
            self.props[key] = value
        self._take(data)

    @staticmethod
    def _later(each: Callback) -> float:
        """The time of the next poll."""
        return time.monotonic() + float((each.background or {}).get("interval", 500)) / 1000

    def _body(self, each: Callback, inputs: list[Any], changed: list[str]) -> dict[str, Any]:
        return {
            "output": each.output,
            "outputs": each.outputs[0] if each.is_single else each.outputs,
            "inputs": inputs,
            "changedPropIds": changed,
            "state": [self._filled(spec) for spec in each.state],
        }

    def _filled(self, spec: Any) -> Any:
        if isinstance(spec, list):
            return [self._filled(each) for each in spec]
        return {**spec, "value": self.props.get(name(spec))}

    def _take(self, data: dict[str, Any] | None) -> None:
        for part in ("sideUpdate", "response"):
            for component, props in ((data or {}).get(part) or {}).items():
                for prop, value in props.items():
                    self._apply(component, prop, value)

    def _apply(self, component: str, prop: str, value: Any) -> None:
        prop = prop.partition("@")[0]
        key = f"{component}.{prop}"
        self.props[key] = value
        if key == "query.data":
            self.props |= {f"{name}.value": shown for name, shown in value["set"].items()}
        if prop == "figure":
            self.drawn = time.monotonic()
        if prop in ("children", "figure"):
            self._walk(value)
        for each in self.callbacks.values():
            if key in each.reads():
                self.pending.setdefault(each.output, [])
                if key not in self.pending[each.output]:
                    self.pending[each.output].append(key)

    def _walk(self, node: Any) -> None:
        """Note the properties of all components in a tree."""
        if isinstance(node, list):
            for each in node:
                self._walk(each)
        elif isinstance(node, dict) and isinstance(node.get("props"), dict):
            props = node["props"]
            if isinstance(props.get("id"), str):
                self.props |= {f"{props['id']}.{key}": value for key, value in props.items()}
            self._walk(props.get("children"))

    @staticmethod
    def _callback(told: dict[str, Any]) -> Callback:
        return Callback(
            told["output"], told["inputs"], told["state"], outputs_of(told["output"]),
            not told.get("prevent_initial_call"), told.get("background"),
        )  # fmt: skip

    # HTTP.

    def _post(self, output: str, body: dict[str, Any], **query: str) -> Any:
        path = f"/_dash-update-component?{urlencode({'endId': self.end_id, **query})}"
        self._last = path, json.dumps(body)
        data = self.request("POST", path, output, self._last[1])
        return json.loads(data) if data else None

    def _exchange(
        self, method: str, path: str, body: str | None
    ) -> tuple[http.client.HTTPResponse, bytes]:
        self._http.request(method, quote(path, safe="/?&=%+,"), body, self._headers)
        answer = self._http.getresponse()
        return answer, answer.read()

    def _answered(
        self, method: str, path: str, body: str | None
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """Send a request, once more after a lost connection; a patient page waits for a server."""
        late = time.monotonic() + (PATIENCE_S if self.patient else 0.0)
        for attempt in count():
            try:
                answer, data = self._exchange(method, path, body)
                if answer.status not in (502, 503) or time.monotonic() > late:
                    return answer, data
            except (ConnectionError, http.client.RemoteDisconnected):
                if attempt > 0 and time.monotonic() > late:
                    raise
            self._http.close()  # the server closed the connection during the pause
            self._pause.wait(0.2 if attempt > 0 else 0.0)
        raise AssertionError("count() does not end")

    def request(self, method: str, path: str, label: str, body: str | None = None) -> bytes:
        """Send one request; return the body of the response, empty for 204.

        Raises:
            PageError: For any other status than 200 and 204.
        """
        began = time.monotonic()
        answer, data = self._answered(method, path, body)
        self.on_call(label, time.monotonic() - began, answer.status)
        if answer.status == 410:
            return json.dumps(LOST).encode()
        if answer.status not in (200, 204):
            raise PageError(f"{label[:80]}: {answer.status} {data[:300]!r}")
        return brotli.decompress(data) if answer.headers.get("Content-Encoding") == "br" else data


def plain(told: dict[str, Any]) -> bool:
    """Whether the server answers a callback, unlike that of a cancel button."""
    return not told.get("clientside_function") and not re.fullmatch(r"[\w-]+\.id", told["output"])
