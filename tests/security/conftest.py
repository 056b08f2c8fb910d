"""Apps with and without a login, on made-up results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from dash import Dash
from dash._get_app import app_context
from flask.testing import FlaskClient

from analysis.contract.jobs import current_user
from analysis.errors import SpecError
from analysis.registry import technique_for
from dash_app.app import create_app
from dash_app.jobs import job_and_draw
from dash_app.jobs import manager as manager_module
from dash_app.security.users import Users
from dash_app.settings import Settings
from tests.support.fake_service import FakeService

PASSWORD = "correct horse battery"  # noqa: S105 - of a made-up user
MakeApp = Callable[..., Dash]


class Watched(FakeService):
    """A fake service that is ready, keeps lists, and runs no suite."""

    def ready(self, _model: str) -> bool:
        return True

    def ask(self, subject: Any, spec: Any, job: Any = None) -> Any:
        if technique_for(spec).subject == "study":
            raise SpecError("This server runs no suites.", "Use another.")
        return super().ask(subject, spec, job)

    def keep(self, content: str) -> str:
        self.memo[content, None] = content
        return f"{len(content):064x}"

    def kept(self, _name: str) -> str | None:
        return None


@pytest.fixture(autouse=True)
def _cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Argon2 is slow on purpose; the tests do not need that."""
    cheap = partial(PasswordHasher, time_cost=1, memory_cost=64, parallelism=1)
    monkeypatch.setattr("dash_app.security.users.PasswordHasher", cheap)


@pytest.fixture
def make_app(tmp_path: Path) -> Iterator[MakeApp]:
    """Create apps by settings, with folders for this test."""
    managers: list[manager_module.JobManager] = []

    def make(service: Any = None, **settings: Any) -> Dash:
        managers.append(manager_module.JobManager())
        folders = {"data_dir": tmp_path / "data", "cache_dir": tmp_path / "cache"}
        chosen = Settings(**{**folders, **settings})
        app = create_app(
            service or Watched(), chosen, manager=managers[-1], jobs=job_and_draw.stages
        )
        app.server.config["TESTING"] = False
        return app

    yield make
    app_context.set(None)  # Dash leaves the app that served a page last
    current_user.set("")
    for manager in managers:
        manager.close()


@pytest.fixture
def users(tmp_path: Path) -> Users:
    """The users file of ``make_app``'s apps, with one user."""
    users = Users(tmp_path / "data" / "users.json")
    users.add("alice", PASSWORD)
    return users


@pytest.fixture
def guarded(make_app: MakeApp, users: Users) -> Dash:
    """An app in which alice may sign in."""
    return make_app(login="users")


def sign_in(client: FlaskClient, name: str = "alice", password: str = PASSWORD, **more: Any) -> Any:
    """Send the form; ``next_`` is where to go then."""
    form = {"name": name, "password": password, "next": more.pop("next_", "/")}
    return client.post("/login", data=form, **more)


def signed_in(app: Dash, name: str = "alice", password: str = PASSWORD) -> FlaskClient:
    """A client of a user who signed in."""
    client = app.server.test_client()
    assert sign_in(client, name, password).status_code == 303
    return client
