"""Counts the files that a prompt passes between the click on Run and the drawn heatmap.

``python -m tools.path_of_a_prompt`` serves the page with the default model, opens it, runs a new
prompt, and follows only the callbacks that lead to the heatmap; no other view is drawn. A profiler
in the web process and in the model worker notes each function of ``analysis`` and ``dash_app`` that
runs. What an import runs does not count, nor what loads the model, which the server does when it
starts.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import threading
from collections import defaultdict
from pathlib import Path
from types import FrameType
from typing import Any

from tests.support.dash_page import Page, name, outputs_of

ROOT = Path(__file__).resolve().parents[1]
#: Where the worker writes what it ran; the web process names it.
REPORT = "STRATASCOPE_PATH_REPORT"
PROMPT, NEW_TOKENS = "The largest planet of the solar system is", 2
#: Outputs of the callbacks between Run and the heatmap; the other panels are left out.
STEPS = ("query.data", "run-last.data", "lens-last.data")
#: Views that are drawn.
VIEWS = ("lens",)
_PRODUCT = tuple(f"{ROOT / package}{os.sep}" for package in ("analysis", "dash_app"))
_IMPORT = "<frozen importlib"

Functions = set[tuple[str, str]]


class Recorder:
    """Notes the product functions that run while it is on, in every thread that starts later."""

    def __init__(self) -> None:
        self.seen: Functions = set()
        self.on = False
        self._local = threading.local()

    def install(self) -> None:
        """Watch this thread and all later ones."""
        threading.setprofile(self._event)
        sys.setprofile(self._event)

    def _event(self, frame: FrameType, event: str, _argument: Any) -> None:
        name = frame.f_code.co_filename
        if name.startswith(_IMPORT):
            if event in ("call", "return"):
                depth = getattr(self._local, "depth", 0)
                self._local.depth = max(depth + (1 if event == "call" else -1), 0)
        elif self.on and event == "call" and name.startswith(_PRODUCT):
            function = frame.f_code.co_qualname
            if not getattr(self._local, "depth", 0) and not function.startswith("<module"):
                self.seen.add((str(Path(name).relative_to(ROOT)), function))


_worker = Recorder()


def perform(request: Any, limits: Any) -> Any:
    """What the worker runs in place of ``analysis.worker.engine.perform``, which it calls."""
    from analysis.worker import engine

    if not _worker.on:  # the first request loads the model
        answer = engine.perform(request, limits)
        _worker.on = True
        _worker.install()
        return answer
    report = Path(os.environ[REPORT])
    if not report.exists():  # Run was pressed since
        _worker.seen.clear()
    answer = engine.perform(request, limits)
    report.write_text(json.dumps(sorted(_worker.seen)), encoding="utf-8")
    return answer


def trace(model: str, prompt: str, new_tokens: int) -> dict[str, Functions]:
    """Run a prompt; the functions that ran, by process."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ[REPORT] = str(Path(folder) / "worker.json")
        recorder = Recorder()
        recorder.install()
        with _Served(Path(folder), model) as url:
            page = _HeatmapPage(url)
            page.open()
            Path(os.environ[REPORT]).unlink()
            recorder.on = True
            page.run(prompt, new_tokens)
            recorder.on = False
            page.close()
            if "data" not in (page.props.get("lens-graph.figure") or {}):
                raise SystemExit(f"The heatmap was not drawn: {page.props.get('alert.children')}")
            worker = json.loads(Path(os.environ[REPORT]).read_text(encoding="utf-8"))
    return {"web": recorder.seen, "worker": {(file, function) for file, function in worker}}


class _HeatmapPage(Page):
    """A page that has the callbacks in ``STEPS`` only."""

    def request(self, method: str, path: str, label: str, body: str | None = None) -> bytes:
        """One request; of the app's callbacks, those between Run and the heatmap."""
        data = super().request(method, path, label, body)
        if label != "dependencies":
            return data
        every = json.loads(data)
        kept = [
            one for one in every if {name(each) for each in outputs_of(one["output"])} & set(STEPS)
        ]
        return json.dumps(kept).encode()


class _Served:
    """The page, served by threads of this process, with an empty memo and a loaded model."""

    def __init__(self, folder: Path, model: str) -> None:
        from dash_app import app
        from dash_app.server import server
        from dash_app.settings import Settings

        make = server.service_settings

        def traced(settings: Any) -> Any:
            return dataclasses.replace(make(settings), function="tools.path_of_a_prompt:perform")

        server.service_settings = traced
        app.VIEWS = tuple(
            view if view.name in VIEWS else dataclasses.replace(view, drawings=())
            for view in app.VIEWS
        )
        settings = Settings(port=0, cache_dir=folder / "cache", default_model=model)
        self._served = server.build(settings)
        self._model = model

    def __enter__(self) -> str:
        import logging

        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.WARNING)

        self._served.service.warm(self._model)
        self._http = make_server("127.0.0.1", 0, self._served.app.server, threaded=True)
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._http.server_port}/"

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._served.close()


def show(found: dict[str, Functions]) -> None:
    """Print each file with its functions, and the counts."""
    everything = set().union(*found.values())
    files: dict[str, list[str]] = defaultdict(list)
    for file, function in sorted(everything):
        files[file].append(function)
    for file, functions in files.items():
        where = "+".join(one for one in found if any(pair[0] == file for pair in found[one]))
        print(f"{file} ({where}): {', '.join(functions)}")
    by_process = ", ".join(f"{len({f for f, _ in seen})} {one}" for one, seen in found.items())
    print(f"\n{len(files)} files ({by_process}), {len(everything)} functions")


def main() -> int:
    """Trace one prompt and print what it passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--new-tokens", type=int, default=NEW_TOKENS)
    chosen = parser.parse_args()
    show(trace(chosen.model, chosen.prompt, chosen.new_tokens))
    return 0


if __name__ == "__main__":
    sys.exit(main())
