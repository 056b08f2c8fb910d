"""A client that speaks Dash's protocol for background callbacks to a Flask test client."""

from __future__ import annotations

import re
import threading
from typing import Any

from dash import Dash

from dash_app.security.clients import BROWSER_COOKIE, owner


class DashClient:
    """One loaded page: it carries the signed ``endId`` that the server gave it."""

    def __init__(self, app: Dash, below: str = "") -> None:
        self._app, self._below = app, below
        self._http = app.server.test_client()
        page = self._http.get(self._below + "/").get_data(as_text=True)
        found = re.search(r'"end_id":"([^"]+)"', page)
        assert found is not None, "the page carries no end_id"
        self.end_id = found.group(1)

    def get(self, address: str) -> Any:
        """The response to a plain request of the same browser."""
        return self._http.get(address)

    def owner(self) -> str:
        """The key under which the server keeps this browser's runs."""
        cookie = self._http.get_cookie(BROWSER_COOKIE)
        headers = {"Cookie": f"{BROWSER_COOKIE}={cookie.value if cookie else ''}"}
        with self._app.server.test_request_context("/", headers=headers):
            return owner()

    def forget_cookies(self) -> None:
        """Send no cookies from now on."""
        self._http = self._app.server.test_client(use_cookies=False)

    def call(self, output: str, inputs: dict[str, Any], **query: Any) -> Any:
        """Call the callback of ``output`` once ("id.property"; several: "..a.x...b.y..")."""
        specs = [spec for spec in output.strip(".").split("...") if spec]
        outputs = [
            dict(zip(("id", "property"), spec.rsplit(".", 1), strict=True)) for spec in specs
        ]
        body = {
            "output": output,
            "outputs": outputs if output.startswith("..") else outputs[0],
            "inputs": [
                {**dict(zip(("id", "property"), name.rsplit(".", 1), strict=True)), "value": value}
                for name, value in inputs.items()
            ],
            "changedPropIds": list(inputs),
        }
        query = {"endId": self.end_id, **query}
        return self._post(body, query)

    def _post(self, body: dict[str, Any], query: dict[str, Any]) -> Any:
        path = f"{self._below}/_dash-update-component"
        return self._http.post(path, json=body, query_string=query)

    def answer(self, writes: str, changed: set[str], values: dict[str, Any]) -> dict[str, Any]:
        """The response of the callback that writes ``id.property``, by component.

        Args:
            writes: One of its outputs.
            changed: Its trigger, as "id.property".
            values: Values of the page by "id.property"; None for all others.
        """
        every = self._http.get(self._below + "/_dash-dependencies").get_json()
        (told,) = (one for one in every if writes in re.split(r"\.\.\.?", one["output"]))
        parts = [spec for spec in told["output"].strip(".").split("...") if spec]
        outputs = [dict(zip(("id", "property"), one.rsplit(".", 1), strict=True)) for one in parts]
        held = lambda each: {**each, "value": values.get(f"{each['id']}.{each['property']}")}  # noqa: E731
        body = {
            "output": told["output"],
            "outputs": outputs if told["output"].startswith("..") else outputs[0],
            "inputs": [held(each) for each in told["inputs"]],
            "state": [held(each) for each in told["state"]],
            "changedPropIds": sorted(changed),
        }
        query = {"endId": self.end_id}
        response = self._post(body, query)
        assert response.status_code in (200, 204), response.get_data(as_text=True)
        found: dict[str, Any] = (response.get_json() or {}) if response.status_code == 200 else {}
        return found.get("response", {})

    def start(self, output: str, inputs: dict[str, Any], **query: Any) -> dict[str, str]:
        """Start a background callback and return its handles."""
        response = self.call(output, inputs, **query)
        assert response.status_code == 200, response.get_data(as_text=True)
        handles: dict[str, str] = response.get_json()
        return handles

    def poll(self, output: str, inputs: dict[str, Any], handles: dict[str, str]) -> Any:
        """Poll once."""
        return self.call(output, inputs, cacheKey=handles["cacheKey"], job=handles["job"])

    def finish(
        self, output: str, inputs: dict[str, Any], handles: dict[str, str], wait_s: float = 30.0
    ) -> tuple[Any, list[Any]]:
        """Poll to the end; return the last response and all progress."""
        progress: list[Any] = []
        patience = threading.Event()
        for _ in range(int(wait_s / 0.02)):
            response = self.poll(output, inputs, handles)
            if response.status_code != 200:
                return response, progress
            data = response.get_json()
            progress += [data["progress"]] if "progress" in data else []
            if "response" in data or "sideUpdate" in data:
                return response, progress
            patience.wait(0.02)
        raise AssertionError("the background callback did not end")
