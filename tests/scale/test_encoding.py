"""Requests as JSON: decoding returns what was encoded, and creates nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.contract.specs import Spec
from analysis.errors import SpecError
from analysis.flow_graph.specs import CausalSpec, ComparisonSpec, FlowSpec
from analysis.lens.specs import LensSpec
from analysis.registry import TECHNIQUES
from analysis.scale.app import decode_request, encode_request
from analysis.tasks.suite_specs import SuiteSpec
from analysis.tracing.edits import parse
from analysis.tracing.specs import RunSpec, TraceSpec
from analysis.worker.messages import Request

EDITS = (
    "ablate:head_output:1:2:0+1:mean",
    "cut:1:all:4:0",
    "inject:1:3: a:replace",
    "patch:1:4:another prompt:0",
    "steer:2:4:#12: b:2.5",
)
TRACE = TraceSpec("m", (1, 2, 3))


@pytest.mark.parametrize(
    "specs",
    [
        (),
        (RunSpec("m", "spa\u00df \U0001f600", new_tokens=2),),
        (SuiteSpec("m", "addition", size=5),),
        (TraceSpec("m", (1, 2), tuple(map(parse, EDITS))), LensSpec()),
        (TRACE, LensSpec(rows=(1, 2), positions=None, target=(7,))),
        (TRACE, FlowSpec(position=(1, 2), budget=10)),
        (TRACE, ComparisonSpec(CausalSpec(FlowSpec(method="norm")), ("norm", "kl"))),
    ],
)
def test_a_request_survives_encoding(specs: tuple[object, ...]) -> None:
    request = Request("kind", "m", "f", specs)  # type: ignore[arg-type]
    assert decode_request(json.loads(json.dumps(encode_request(request)))) == request


def test_every_spec_of_the_registry_is_known() -> None:
    assert {technique.spec for technique in TECHNIQUES} <= set(Spec.types_by_name.values())


@pytest.mark.parametrize(
    "value",
    [
        "text",
        [],
        {"$type": "Popen", "args": "x"},
        {"$type": "Request", "kind": "run"},
        {"$type": "RunSpec", "model": "m", "text": "x"},
        {**encode_request(Request("run", "m", "f")), "specs": [{"$type": "RunSpec", "bad": 1}]},
        {**encode_request(Request("run", "m", "f")), "specs": [{"model": "m"}]},
    ],
)
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(SpecError, match="could not be read"):
        decode_request(value)


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
