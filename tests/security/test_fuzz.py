"""Invalid payloads of every callback: status 4xx or a message in the page, never a trace."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from dash import Dash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dash_app.state.context import split
from dash_app.state.selection import Selection
from tests.security.conftest import Watched
from tests.support.dash_client import DashClient
from tests.support.fake_service import HEADS, LAYERS, VOCAB

UPDATE = "/_dash-update-component"
PROMPT = "The capital of France is"
RUN = {
    "model": "smollm2-135m-instruct", "prompt": PROMPT, "new": 2, "template": "off", "attempt": 1,
    "token_ids": [0, 1, 2, 3, 4, 5, 6], "prompt_length": 5, "layers": LAYERS, "heads": HEADS,
    "vocab": VOCAB, "layer": 10,
}  # fmt: skip
#: Valid contents of the page's stores. A fuzz that fails the first check finds little.
STORES: dict[str, Any] = {
    **split(Selection(model=RUN["model"], prompt=PROMPT, new=2, attempt=1, row=3, pos=2)),
    "run": RUN,
    "status": {"attempt": 1, "run": RUN},
    "query": {"query": "", "push": False, "ignored": [], "seen": 0},
    "events": {"reports": [{"to": "row=3&pos=2", "n": 1}]},
    "scheme": "dark",
    "url": "?row=3",
}

text = st.text(max_size=12) | st.sampled_from(
    (
        "",
        "none",
        "../../etc/passwd",
        "<img src=x>",
        "\x00",
        "1e999",
        "-1",
        "9" * 40,
        "\u202e",
        "a" * 3000,
    )
)
numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
anything = st.recursive(
    st.none() | st.booleans() | numbers | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=8,
)


def spoilt(value: Any) -> st.SearchStrategy[Any]:
    """``value`` itself, another value, or ``value`` with one invalid part."""
    if isinstance(value, dict) and value:
        part = st.sampled_from(sorted(value)).flatmap(
            lambda name: spoilt(value[name]).map(lambda new: {**value, name: new})
        )
        less = st.sampled_from(sorted(value)).map(
            lambda gone: {name: one for name, one in value.items() if name != gone}
        )
        return st.just(value) | part | part | less | anything
    if isinstance(value, list) and value:
        return st.just(value) | spoilt(value[0]).map(lambda new: [new, *value[1:]]) | anything
    return st.just(value) | anything


@st.composite
def payloads(draw: Any, callbacks: list[dict[str, Any]]) -> dict[str, Any]:
    """Valid and invalid payloads of one callback."""
    callback = draw(st.sampled_from(callbacks))
    specs = [spec for spec in callback["output"].strip(".").split("...") if "." in spec]
    outputs = [dict(zip(("id", "property"), spec.rsplit(".", 1), strict=True)) for spec in specs]
    many = callback["output"].startswith("..")
    body = {
        "output": callback["output"],
        "outputs": outputs if many else (outputs or [None])[0],
        **{
            kind: [{**one, "value": draw(spoilt(STORES.get(one["id"])))} for one in callback[kind]]
            for kind in ("inputs", "state")
        },
        "changedPropIds": [f"{one['id']}.{one['property']}" for one in callback["inputs"]],
    }
    if draw(st.integers(0, 9)) == 0:
        return draw(spoilt(body))
    return body


class Defects(logging.Handler):
    """What the app logs as an error, with the exception."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []
        logging.getLogger("stratascope").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self.seen.append(f"{record.getMessage()}: {error!r}")


class Fuzzed:
    """An app with made-up results, and the responses to everything that was sent."""

    def __init__(self, app: Dash) -> None:
        self.defects = Defects()
        self.client = DashClient(app)
        self.http = self.client._http
        listed = json.loads(self.http.get("/_dash-dependencies").data)
        self.callbacks = [one for one in listed if not one["clientside_function"]]
        self.reached: set[str] = set()

    def send(self, body: Any) -> Any:
        answer = self.http.post(UPDATE, json=body, query_string={"endId": self.client.end_id})
        self.judge(answer)
        found = answer.get_json(silent=True) or {}
        if answer.status_code in (200, 204):
            self.reached.add(body["output"])
        if "cacheKey" in found:
            self.wait(body, found)
        return answer

    def wait(self, body: Any, handles: dict[str, str]) -> None:
        """To the end of a background callback."""
        query = {
            "endId": self.client.end_id,
            "cacheKey": handles["cacheKey"],
            "job": handles["job"],
        }
        for _ in range(1000):
            answer = self.http.post(UPDATE, json=body, query_string=query)
            self.judge(answer)
            found = answer.get_json(silent=True) or {}
            if answer.status_code != 200 or "response" in found or "sideUpdate" in found:
                return
            time.sleep(0.005)
        raise AssertionError("the background callback did not end")

    def judge(self, answer: Any) -> None:
        assert self.defects.seen == []  # a request of a client is no defect of the server
        said = answer.get_data(as_text=True)
        assert answer.status_code < 500, said
        assert "Traceback" not in said
        assert 'File "' not in said
        if answer.status_code >= 400:
            assert answer.get_json()["problem"]["message"]


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    from dash_app.app import create_app
    from dash_app.jobs import job_and_draw
    from dash_app.jobs import manager as manager_module
    from dash_app.settings import Settings

    folder = tmp_path_factory.mktemp("fuzzed")
    manager = manager_module.JobManager(max_jobs=10_000)
    chosen = Settings(data_dir=folder, cache_dir=folder, requests_per_minute=10**9)
    found = Fuzzed(create_app(Watched(), chosen, manager=manager, jobs=job_and_draw.stages))
    yield found
    manager.close()
    logging.getLogger("stratascope").removeHandler(found.defects)


def fuzz(fuzzed: Fuzzed, callbacks: list[dict[str, Any]], examples: int) -> None:
    sent = 0

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(payloads(callbacks))
    def send(body: Any) -> None:
        nonlocal sent
        sent += 1
        fuzzed.send(body)

    send()
    assert sent >= examples


def test_valid_payloads_are_answered(fuzzed: Fuzzed) -> None:
    """Otherwise the fuzz would never get past the first check."""
    for callback in fuzzed.callbacks:
        specs = [spec for spec in callback["output"].strip(".").split("...") if "." in spec]
        outputs = [
            dict(zip(("id", "property"), spec.rsplit(".", 1), strict=True)) for spec in specs
        ]
        body = {
            "output": callback["output"],
            "outputs": outputs if callback["output"].startswith("..") else (outputs or [None])[0],
            **{
                kind: [{**one, "value": STORES.get(one["id"])} for one in callback[kind]]
                for kind in ("inputs", "state")
            },
            "changedPropIds": [],
        }
        assert fuzzed.send(body).status_code in (200, 204), callback["output"]
    assert len(fuzzed.reached) == len(fuzzed.callbacks) > 20


@pytest.mark.parametrize(
    "value",
    [10**400, True, "x", [[]], {"id": {"a": 1}}, {"points": [{}]}, {"points": [{"x": 1e999}]}],
    ids=["huge", "true", "text", "lists", "object", "no numbers", "infinite"],
)
def test_one_forged_value_everywhere_is_no_defect(fuzzed: Fuzzed, value: Any) -> None:
    for callback in fuzzed.callbacks:
        specs = [spec for spec in callback["output"].strip(".").split("...") if "." in spec]
        outputs = [
            dict(zip(("id", "property"), spec.rsplit(".", 1), strict=True)) for spec in specs
        ]
        many = callback["output"].startswith("..")
        fuzzed.send(
            {
                "output": callback["output"],
                "outputs": outputs if many else (outputs or [None])[0],
                **{
                    kind: [{**one, "value": value} for one in callback[kind]]
                    for kind in ("inputs", "state")
                },
                "changedPropIds": [f"{one['id']}.{one['property']}" for one in callback["inputs"]],
            }
        )


def test_invalid_payloads_give_a_message(fuzzed: Fuzzed) -> None:
    fuzz(fuzzed, fuzzed.callbacks, 100)


@pytest.mark.full
def test_thousands_of_invalid_payloads_give_a_message(fuzzed: Fuzzed) -> None:
    """Every callback gets a share. A draw from all callbacks missed some in half of the runs."""
    fuzzed.reached.clear()
    for callback in fuzzed.callbacks:
        fuzz(fuzzed, [callback], -(-2500 // len(fuzzed.callbacks)))
    assert fuzzed.reached == {callback["output"] for callback in fuzzed.callbacks}


@given(raw=st.binary(max_size=300))
@settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_bytes_that_are_no_payload_give_a_message(fuzzed: Fuzzed, raw: bytes) -> None:
    for kind in ("application/json", "text/plain"):
        answer = fuzzed.http.post(UPDATE, data=raw, content_type=kind)
        fuzzed.judge(answer)
        assert answer.status_code in (400, 415)


@given(query=st.dictionaries(text, text, max_size=5), path=text)
@settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_any_address_gives_the_page_or_a_message(
    fuzzed: Fuzzed, query: dict[str, str], path: str
) -> None:
    # Two slashes at the front would name a host for the test's client.
    for address in ("/", "/" + quote(path.lstrip("/"))):
        fuzzed.judge(fuzzed.http.get(address, query_string=query))
