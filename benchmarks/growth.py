"""Measure how each view's time and memory grow, and forecast them for large models.

    python -m benchmarks.growth                   # the curves and their exponents
    python -m benchmarks.growth --write           # and their figure and table in the documents
    python -m benchmarks.growth --forecast [MODEL ...]

The models are Llamas with random weights, made for each measurement. The curves change one size at
a time: tokens, layers, width, vocabulary. Times are CPU seconds on one thread, the least of two
runs if the first took under two seconds; memory is the process's own peak above its size before.

The forecast fits the time and memory of the load, the trace and the grid in 16 bits on small
models, and prints them for models of 1.1, 7 and 70 B parameters. A MODEL (1.1B, 7B) is then made
with random weights, loaded and measured, beside the forecast. 7B needs 14 GB of disk and of memory.
With ``--device cuda`` times are those of the clock, and memory is the device's.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

import analysis
from analysis.interventions import Ablate
from analysis.model import catalog
from analysis.model import memory as estimates
from analysis.model.handle import Model
from benchmarks import _growth_figure as figure
from benchmarks import memory
from benchmarks._growth_fit import BYTES, SECONDS, Law
from benchmarks._random_models import KNOWN, Shape, write

#: Where the curves meet, and their sizes.
BASE, TOKENS = Shape(8, 512, 16000), 128
SIZES: dict[str, tuple[int, ...]] = {
    "tokens": (64, 128, 256, 512, 1024),
    "layers": (4, 8, 16, 32, 64),
    "width": (256, 512, 1024, 1536, 2048),
    "vocabulary": (8000, 16000, 32000, 64000, 128000),
}
#: Models of 16 bits and tokens to which the laws of the forecast are fitted.
FITTED: tuple[tuple[Shape, tuple[int, ...]], ...] = (
    (Shape(2, 1024, 8000), (16,)),
    (Shape(2, 2048, 16000), (8, 16, 32, 64)),
    (Shape(8, 2048, 16000), (16, 64)),
    (Shape(2, 2048, 64000), (16,)),
    (Shape(2, 4096, 16000), (8, 16, 64)),
    (Shape(4, 4096, 8000), (16,)),
    (Shape(1, 4096, 32000), (16, 32)),
)
#: Tokens of a forecast.
FORECAST_TOKENS = (16, 64)
#: A run that takes longer is not repeated.
REPEAT_BELOW = 2.0

Work = Callable[[Model, analysis.Trace, list[int]], Any]
#: View -> its computation.
VIEWS: dict[str, Work] = {
    "trace": lambda model, trace, ids: analysis.trace(model, ids),
    "grid": lambda model, trace, ids: analysis.decode(model, trace),
    "flow, effect": lambda model, trace, ids: analysis.flow(model, trace, budget=300),
    "flow, proximity": lambda model, trace, ids: analysis.flow(
        model, trace, method="proximity", budget=300
    ),
    "emergence": lambda model, trace, ids: analysis.emergence(model, trace),
    "attribution": lambda model, trace, ids: analysis.attribute(model, trace),
    "edited pass": lambda model, trace, ids: analysis.trace(
        model, ids, interventions=[Ablate("head_output", 0, 0)]
    ),
}


class Cost(NamedTuple):
    """CPU seconds (on a GPU: seconds) and bytes of memory."""

    seconds: float
    bytes: float


def clock(device: str = "cpu") -> float:
    """Return the CPU seconds of this process and its children, or the seconds on a GPU."""
    if device != "cpu":
        torch.cuda.synchronize()
        return time.perf_counter()
    of_children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + of_children.ru_utime + of_children.ru_stime


def cost(work: Callable[[], Any], device: str = "cpu") -> Cost:
    """Measure a computation, in memory that is given back before."""
    memory.trim()
    memory.reset_peak()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated() if device != "cpu" else memory.resident()
    begun = clock(device)
    work()
    seconds = clock(device) - begun
    most = torch.cuda.max_memory_allocated() if device != "cpu" else memory.peak()
    if seconds < REPEAT_BELOW:
        begun = clock(device)
        work()
        seconds = min(seconds, clock(device) - begun)
    return Cost(seconds, most - held)


@contextmanager
def folder_of(shape: Shape, dtype: str) -> Iterator[str]:
    """The folder of a model of random weights, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="growth-") as made:
        yield str(write(shape, getattr(torch, dtype), Path(made) / "model"))


def load(folder: str, dtype: str, device: str = "cpu") -> tuple[Model, Cost]:
    """Load a model, with what that costs: its mapped files count as memory."""
    memory.trim()
    memory.reset_peak()
    before, begun = memory.resident(), clock(device)
    model = analysis.load_model(folder, dtype=dtype, device=device)
    seconds = clock(device) - begun
    size = memory.peak() - before if device == "cpu" else torch.cuda.max_memory_allocated()
    return model, Cost(seconds, size)


def tokens_of(model: Model, size: int) -> list[int]:
    """Return seeded random ids."""
    generator = torch.Generator().manual_seed(7)
    found: list[int] = torch.randint(0, model.info.vocab, (size,), generator=generator).tolist()
    return found


def measure(
    model: Model, size: int, views: tuple[str, ...] = tuple(VIEWS), device: str = "cpu"
) -> dict[str, Cost]:
    """Return what each view of a prompt costs. Each takes a trace that knows no other view."""
    ids = tokens_of(model, size)
    trace = analysis.trace(model, ids)
    return {
        name: cost(lambda name=name: VIEWS[name](model, replace(trace, scratch={}), ids), device)  # type: ignore[misc]
        for name in views
    }


def curve(name: str) -> dict[str, list[Cost]]:
    """Return the curve of each view over one size."""
    found: dict[str, list[Cost]] = {view: [] for view in VIEWS}
    if name == "tokens":
        with folder_of(BASE, "float32") as folder:
            model, _ = load(folder, "float32")
        points = [measure(model, size) for size in SIZES[name]]
    else:
        points = []
        for size in SIZES[name]:
            with folder_of(replace(BASE, **{name: size}), "float32") as folder:
                model, _ = load(folder, "float32")
            points.append(measure(model, TOKENS))
    for point in points:
        for view, spent in point.items():
            found[view].append(spent)
    return found


def print_curve(name: str, found: dict[str, list[Cost]]) -> None:
    """Print the costs of each view at each size."""
    print(f"\n{name:18}" + "".join(f"{size:>18,}" for size in SIZES[name]))
    for view, costs in found.items():
        cells = (f"{one.seconds:9.3f} s {one.bytes / 1e6:4.0f} MB" for one in costs)
        print(f"  {view:16}" + "".join(f"{cell:>18}" for cell in cells), flush=True)


def curves(*, draw: bool) -> None:
    """Measure, print and, if wanted, draw all curves."""
    found = {}
    for name in SIZES:
        found[name] = curve(name)
        print_curve(name, found[name])
    print(f"\nThe curves meet at {TOKENS} tokens and {BASE.layers} layers of width {BASE.width}.")
    print(f"\n{figure.table(SIZES, found)}")
    if draw:
        figure.write(SIZES, found)


def fit(device: str) -> dict[str, tuple[Law, Law]]:
    """Return the laws of the seconds and of the bytes of each step, in 16 bits."""
    points: dict[str, list[tuple[Shape, int]]] = {step: [] for step in SECONDS}
    costs: dict[str, list[Cost]] = {step: [] for step in SECONDS}
    for shape, sizes in FITTED:
        with folder_of(shape, "bfloat16") as folder:
            model, loaded = load(folder, "bfloat16", device)
        found = [(sizes[0], {"load": loaded})]
        found += [(size, measure(model, size, ("trace", "grid"), device)) for size in sizes]
        for size, spent in found:
            for step, one in spent.items():
                points[step].append((shape, size))
                costs[step].append(one)
    return {
        step: (
            Law.fit(SECONDS[step], points[step], [one.seconds for one in costs[step]]),
            Law.fit(BYTES[step], points[step], [max(one.bytes, 1e5) for one in costs[step]]),
        )
        for step in SECONDS
    }


def expected(laws: dict[str, tuple[Law, Law]], shape: Shape, tokens: int) -> dict[str, Cost]:
    """Return the forecast of each step: a sum of terms of layers, width, vocabulary and tokens."""
    return {
        step: Cost(seconds(shape, tokens), size(shape, tokens))
        for step, (seconds, size) in laws.items()
    }


def total(costs: dict[str, Cost]) -> Cost:
    """Return the seconds of all steps, and the bytes of the model and the largest other step."""
    others = (one.bytes for step, one in costs.items() if step != "load")
    return Cost(sum(one.seconds for one in costs.values()), costs["load"].bytes + max(others))


def print_costs(name: str, costs: dict[str, Cost], beside: dict[str, Cost] | None = None) -> None:
    """Print a line of costs; with others beside, their ratio too."""
    text = []
    for step, one in {**costs, "all": total(costs)}.items():
        ratio = ""
        if beside is not None:
            other = {**beside, "all": total(beside)}[step]
            ratio = f" ({one.seconds / other.seconds:.2f}, {one.bytes / other.bytes:.2f})"
        text.append(f"{step} {one.seconds:.2f} s {one.bytes / 1e9:.2f} GB{ratio}")
    print(f"  {name:12} {'; '.join(text)}", flush=True)


def check(name: str, laws: dict[str, tuple[Law, Law]], device: str) -> None:
    """Make a known model, measure it, and print it beside the forecast and the estimate."""
    shape = KNOWN[name]
    with folder_of(shape, "bfloat16") as folder:
        entry = catalog.find(folder)
        estimate = estimates.needed(entry, catalog.dtype_of(entry, "bfloat16"))
        print(f"{name}: {shape.parameters / 1e9:.2f} B, estimate {estimate / 1e9:.2f} GB")
        model, loaded = load(folder, "bfloat16", device)
        within = "within" if loaded.bytes <= estimate else "ABOVE"
        print(f"  loaded in {loaded.seconds:.1f} s with {loaded.bytes / 1e9:.2f} GB, {within} it")
        for tokens in FORECAST_TOKENS:
            measured = {"load": loaded, **measure(model, tokens, ("trace", "grid"), device)}
            print(f"  {tokens} tokens: measured (measured / forecast: time, memory)")
            print_costs("", measured, expected(laws, shape, tokens))


def forecast(models: list[str], device: str) -> None:
    """Print the laws and the forecasts, and measure some models."""
    laws = fit(device)
    for step, pair in laws.items():
        for unit, law in zip(("seconds", "bytes"), pair, strict=True):
            terms = " + ".join(f"{factor:.2e} {term}" for term, factor in law.factors.items())
            print(f"{unit} of the {step} = {terms}  (error at most {law.residual:.0%})")
    for tokens in FORECAST_TOKENS:
        print(f"\nForecast in bfloat16 on {device}, {tokens} tokens")
        for name, shape in KNOWN.items():
            print_costs(name, expected(laws, shape, tokens))
    for name in models:
        check(name, laws, device)


def main(arguments: list[str] | None = None) -> int:
    """Print the curves or the forecast."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--forecast", nargs="*", choices=tuple(KNOWN), metavar="MODEL")
    parser.add_argument("--device", default="cpu")
    chosen = parser.parse_args(arguments)
    if chosen.device != "cpu" and not torch.cuda.is_available():
        print("There is no GPU: nothing is measured.")
        return 0
    torch.set_num_threads(1)
    with folder_of(Shape(2, 128, 1000), "float32") as folder:  # imports, and kernels to compile
        for dtype in ("float32", "bfloat16"):
            measure(load(folder, dtype, chosen.device)[0], 8, device=chosen.device)
    if chosen.forecast is None:
        curves(draw=chosen.write)
    else:
        forecast(chosen.forecast, chosen.device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
