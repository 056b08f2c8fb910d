"""An app with made-up results: no browser, no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dash_app.app import create_app
from dash_app.settings import Settings
from dash_app.state.selection import RunRef, Selection
from tests.support.fake_service import HEADS, LAYERS, VOCAB, FakeService


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", cache_dir=tmp_path / "cache")


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def app(service: FakeService, settings: Settings) -> Any:
    return create_app(service, settings)


@pytest.fixture
def asked() -> Selection:
    return Selection(
        model="smollm2-135m-instruct", prompt="The capital of France is", new=2, attempt=1
    )


@pytest.fixture
def run_ref() -> RunRef:
    return RunRef(
        model="smollm2-135m-instruct",
        prompt="The capital of France is",
        new=2,
        attempt=1,
        token_ids=(0, 1, 2, 3, 4, 5, 6),
        prompt_length=5,
        opening=4,
        layers=LAYERS,
        heads=HEADS,
        vocab=VOCAB,
        layer=10,
    )
