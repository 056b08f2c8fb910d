"""Jobs that a page starts again after a restart: only its own, only lost ones."""

from __future__ import annotations

from typing import Any

from tests.security.conftest import MakeApp, signed_in
from tests.security.test_attacks import run_of


def test_only_the_page_of_a_job_can_start_it_again(make_app: MakeApp, users: Any) -> None:
    app = make_app(login="users")
    alice = signed_in(app)
    first, handles, asked = run_of(app, alice)
    second, _, _ = run_of(app, alice)
    key, _, signature = handles["cacheKey"].rpartition("~")
    forged = f"{'0' if key[0] != '0' else '1'}{key[1:]}~{signature}"
    assert second.call("run-last.data", asked, again=handles["cacheKey"]).status_code == 403
    assert first.call("run-last.data", asked, again=forged).status_code == 403
    running = first.call("run-last.data", asked, again=handles["cacheKey"])
    assert running.get_json() == {}  # a job that runs is not started twice


def named(handles: dict[str, str]) -> dict[str, str]:
    """The handles that a poll sends."""
    return {name: handles[name] for name in ("cacheKey", "job")}


def test_a_lost_job_is_started_again_under_its_name(make_app: MakeApp) -> None:
    app = make_app()
    page, handles, asked = run_of(app, app.server.test_client())
    page.finish("run-last.data", asked, handles)
    app._background_manager._jobs.clear()  # as after a restart
    lost = page.call("run-last.data", asked, repeatable="1", **named(handles))
    assert lost.status_code == 410
    again = page.start("run-last.data", asked, again=handles["cacheKey"])
    assert (again["cacheKey"], again["job"]) == (handles["cacheKey"], handles["job"])
    response, _ = page.finish("run-last.data", asked, handles)
    assert response.get_json()["sideUpdate"]["status"]["data"]["attempt"] == 1


def test_a_stopping_server_starts_no_job(make_app: MakeApp) -> None:
    app = make_app()
    page, _, asked = run_of(app, app.server.test_client())
    app._background_manager.draining = True
    refused = page.call("run-last.data", asked)
    assert refused.status_code == 503
    assert "restarting" in refused.get_json()["problem"]["message"]
