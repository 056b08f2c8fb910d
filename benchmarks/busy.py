"""Measure how long a click waits while another user's suite runs.

    python -m benchmarks.busy

One model worker computes with SmolLM2. Each line shows the median and the longest time of several
clicks on new prompts: until the answer is ready, and until heatmap, emergence, attention and flow
are ready.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from analysis.contract.jobs import Job
from analysis.contract.specs import Spec
from analysis.errors import CancelledError
from analysis.flow_graph.specs import FlowSpec
from analysis.lens.specs import LensSpec
from analysis.service import Service
from analysis.tasks.suite_specs import SuiteSpec
from analysis.tracing.specs import PatternSpec, RunSpec, TraceSpec
from analysis.trajectory.specs import EmergenceSpec
from analysis.worker.messages import ServiceSettings

MODEL = "smollm2-135m-instruct"
ALONE = ("Peru", "Chad", "Oman", "Fiji", "Nepal")
DURING = ("Kenya", "France", "Japan", "Italy", "Egypt", "Ghana", "Cuba", "Spain")
VIEWS: tuple[Spec[Any], ...] = (LensSpec(), EmergenceSpec(), PatternSpec(layer=9), FlowSpec())


def click(service: Service, place: str) -> tuple[float, float]:
    """Return the seconds to the answer, and to all views, which are requested at once."""
    start = time.perf_counter()
    run = service.ask(MODEL, RunSpec(MODEL, f"The capital of {place} is", new_tokens=1))
    answered = time.perf_counter() - start
    trace = TraceSpec(MODEL, run.token_ids)
    views = [threading.Thread(target=service.ask, args=(trace, spec)) for spec in VIEWS]
    for view in views:
        view.start()
    for view in views:
        view.join()
    return answered, time.perf_counter() - start


def print_times(name: str, times: Sequence[tuple[float, float]]) -> None:
    """Print one line."""
    answers, views = zip(*times, strict=True)
    print(
        f"{name:20} answer {statistics.median(answers):5.2f} s, at most {max(answers):5.2f} s; "
        f"all views {statistics.median(views):5.2f} s, at most {max(views):5.2f} s",
        flush=True,
    )


def run_suite(service: Service, job: Job) -> None:
    """Run a suite that takes longer than the clicks, until it is cancelled."""
    with suppress(CancelledError):
        service.ask(MODEL, SuiteSpec(MODEL, "addition", size=500, digits=2, seed=7), job)


def main() -> None:
    """Measure clicks alone, then clicks during a suite."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Service(ServiceSettings(cache_dir=Path(folder))) as service,
    ):
        service.warm(MODEL)
        print_times("alone", [click(service, place) for place in ALONE])
        job = Job()
        running = threading.Thread(target=run_suite, args=(service, job))
        running.start()
        time.sleep(3)  # until the suite runs
        times = [click(service, place) for place in DURING]
        assert running.is_alive(), "the suite ended before the clicks"
        print_times("during a suite", times)
        job.cancel()
        running.join()


if __name__ == "__main__":
    main()
