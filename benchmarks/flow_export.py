"""Print the time from a flow graph to its files, without the page.

python -m benchmarks.flow_export        # at most 3 s for 300 links; the exit status says whether
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import analysis
from analysis.flow_graph.specs import FlowSpec
from analysis.tracing.specs import RunSpec
from dash_app.pictures.documents import FORMATS, write
from dash_app.pictures.results import Drawn
from dash_app.views.flow.picture import picture

MODEL, PROMPT = "smollm2-135m-instruct", "The capital of France is the city of"
#: Seconds that the SVG may take after the result is there.
LIMIT_S = 3.0


def main() -> int:
    """Draw and write the picture in each format, three times each; print the slowest."""
    model = analysis.load_model(MODEL)
    trace = analysis.trace(model, PROMPT)
    graph = analysis.compute(model, FlowSpec(-1, method="proximity", threshold=0.001), trace)
    grid = analysis.decode(model, trace)
    run = analysis.compute(model, RunSpec(MODEL, PROMPT))
    slowest: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in FORMATS:
            for _ in range(3):
                start = time.perf_counter()
                drawn = picture(graph, run, grid)
                write(Drawn("Flow", "", (drawn,), {}), Path(folder) / f"flow.{kind}")
                took = time.perf_counter() - start
                slowest[kind] = max(slowest.get(kind, 0.0), took)
            print(f"{kind:5} {len(drawn['links'])} links {slowest[kind]:6.2f} s", flush=True)
    return 0 if slowest["svg"] <= LIMIT_S else 1


if __name__ == "__main__":
    sys.exit(main())
