"""Requests and errors as JSON: what goes in comes out, and nothing else is made from it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.contract.specs import Spec
from analysis.errors import AnalysisError, PromptError, SpecError
from analysis.flow_graph.specs import CausalSpec, ComparisonSpec, FlowSpec
from analysis.lens.specs import LensSpec
from analysis.registry import TECHNIQUES
from analysis.scale.wire import pack_error, pack_request, unpack_error, unpack_request
from analysis.tasks.specs import SuiteSpec
from analysis.tracing.specs import RunSpec, TraceSpec
from analysis.worker.messages import Request

TRACE = TraceSpec("m", (1, 2, 3))


@pytest.mark.parametrize(
    "specs",
    [
        (),
        (RunSpec("m", "spa\u00df \U0001f600", new_tokens=2),),
        (SuiteSpec("m", "addition", size=5),),
        (TRACE, LensSpec(rows=(1, 2), positions=None, target=(7,))),
        (TRACE, FlowSpec(position=(1, 2), budget=10)),
        (TRACE, ComparisonSpec(CausalSpec(FlowSpec(method="norm")), ("norm", "kl"))),
    ],
)
def test_a_request_comes_back_as_it_was(specs: tuple[object, ...]) -> None:
    request = Request("kind", "m", "f", specs)  # type: ignore[arg-type]
    assert unpack_request(pack_request(request)) == request


def test_every_spec_of_the_registry_is_known() -> None:
    assert {technique.spec for technique in TECHNIQUES} <= set(Spec.types_by_name.values())


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        json.dumps(["run", "m", "f", [{"$spec": "Popen", "args": "x"}]]),
        json.dumps(["run", "m", "f", [{"$spec": "RunSpec", "nonsense": 1}]]),
        json.dumps(["run", "m", "f", [{"model": "m"}]]),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="could not be read"):
        unpack_request(text)


def test_errors_keep_their_class_and_nothing_else_is_raised() -> None:
    error = unpack_error(pack_error(PromptError("Too long.", "Shorten it.")))
    assert (type(error), error.message, error.hint) == (PromptError, "Too long.", "Shorten it.")
    assert type(unpack_error(json.dumps(["SystemExit", "x", ""]))) is AnalysisError
    assert type(unpack_error("nonsense")) is AnalysisError


def test_without_a_redis_neither_celery_nor_redis_is_imported() -> None:
    code = (
        "import sys, dash_app.wsgi, dash_app.cli;"
        "print(sorted({'celery', 'redis', 'kombu'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert done.stdout.splitlines()[-1] == "[]"
