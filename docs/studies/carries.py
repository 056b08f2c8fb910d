"""Compute the figures and numbers of ``carries.md``.

    .venv/bin/python docs/studies/carries.py [--only PART ...]

Writes ``carries.json`` (every number quoted) and ``figures/*.png`` beside this file.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from playwright.sync_api import sync_playwright
from plotly.offline import get_plotlyjs
from plotly.utils import PlotlyJSONEncoder

import analysis
from analysis.model.handle import Model
from analysis.tasks import (
    carry_circuits,
    carry_patching,
    failure_report,
    probes,
    suite_report,
    suites,
    sum_table,
)
from analysis.tasks.sum_table import Component, Table
from dash_app.views.tasks import failure_figures, figure_parts, suite_figures, sum_figures

HERE = Path(__file__).parent
SUMS, ATTRIBUTED, PAIRS = 3000, 600, 128
DECODABLE = 0.99


def probe(model: Model, sums: Table) -> tuple[dict[str, Any], dict[str, Any]]:
    """Probes: where each carry is decodable before its digit is written, with figures."""
    found = probes.report(model, sums)
    drawn: dict[str, Any] = {}
    numbers: dict[str, Any] = {"held_out": found.held_out}
    numbers["control_max"] = float(found.control[:5].max())
    digits = sums.digits
    for column in range(1, digits + 1):
        position = sums.answers[column] - 1
        target = found.targets.index(f"carry{column}")
        numbers[f"carry{column}"] = {
            "place": sums.places[position],
            "at_place": _by_component(found.components, found.accuracy[target, :, position]),
            "readable_at": [
                f"{found.components[c]} at {found.places[p]} ({found.accuracy[target, c, p]:.3f})"
                for c, p in np.argwhere(found.accuracy[target, :, : position + 1] >= DECODABLE)
                if found.components[c].startswith("row")
            ],
        }
        drawn[f"probe-carry{column}"] = figure_parts.matrix(
            found.accuracy[target], columns=_short(found.places), rows=found.components,
            theme="light", quantity="balanced accuracy", low=0.5,
            title=f"Probe: the carry into column {column}",
        )  # fmt: skip
    for column in range(digits):
        target = found.targets.index(f"sum{column}")
        position = sums.answers[column] - 1
        numbers[f"sum{column}"] = {
            "chance": float(found.chance[target]),
            "at_place": _by_component(found.components, found.accuracy[target, :, position]),
        }
    return numbers, drawn


def _by_component(names: tuple[str, ...], values: Any) -> dict[str, float]:
    return {name: round(float(value), 4) for name, value in zip(names, values, strict=True)}


def _short(names: tuple[str, ...]) -> list[str]:
    return [name.replace("answer", "ans") for name in names]


def attribute(model: Model, sums: Table) -> tuple[dict[str, Any], dict[str, Any]]:
    """Attribution and attention: what writes each digit, and what each head reads."""
    found = sum_table.report(model, sums)
    numbers: dict[str, Any] = {"counts": found.counts.tolist()}
    drawn = {}
    digits = [f"answer{column}" for column in found.columns]
    names = []
    rows = []
    for layer in range(model.info.layers):
        for head in range(model.info.heads):
            names.append(f"head {layer}.{head}")
            rows.append(found.heads[:, :, layer, head])
            drawn[f"attention-{layer}{head}"] = figure_parts.matrix(
                found.attention[:, layer, head], columns=_short(found.sources), rows=digits,
                theme="light", quantity="mean pattern", title=f"Head {layer}.{head} reads",
            )  # fmt: skip
            numbers[f"head {layer}.{head} reads"] = {
                digit: _strongest(found.sources, line)
                for digit, line in zip(digits, found.attention[:, layer, head], strict=True)
            }
        names.append(f"mlp {layer}")
        rows.append(found.mlps[:, :, layer])
    table = np.stack(rows).reshape(len(names), -1)
    kinds = [f"{digit}<br>{kind}" for digit in digits for kind in ("no carry", "carry")]
    numbers["logits"] = {
        name: dict(
            zip([k.replace("<br>", " ") for k in kinds], np.round(line, 2).tolist(), strict=True)
        )
        for name, line in zip(names, table, strict=True)
    }
    most = float(np.nanmax(np.abs(table)))
    drawn["contributions"] = figure_parts.matrix(
        table, columns=kinds, rows=names, theme="light", quantity="logits", low=-most, high=most,
        signed=True, title="Logits for the right digit over the other carry's digit",
    )  # fmt: skip
    return numbers, drawn


def _strongest(names: tuple[str, ...], line: Any) -> str:
    order = np.argsort(-line)[:3]
    return ", ".join(f"{names[place]} {line[place]:.2f}" for place in order if line[place] >= 0.1)


def read_weights(model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    """Which head makes carries, from QK and OV alone; no pass through the model."""
    found = carry_circuits.carry_circuits(model)
    numbers = {
        found.name(at): {
            "reads below": np.round(found.below[at], 3).tolist(),
            "carry": np.round(found.carry[at], 3).tolist(),
            "score": round(float(found.scores[at]), 4),
            "output at digit sum 8, 9, 10, 11": np.round(found.outputs[at, :, 8:12], 2).tolist(),
        }
        for at in range(len(found.heads))
    }
    first = int(found.order[0])
    return {"sentence": found.sentence, **numbers}, {
        "weights-heads": sum_figures.carry_heads(found, theme="light"),
        "weights-step": sum_figures.carry_steps(found, first, theme="light"),
    }


def patch(model: Model, digits: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Patching: which component carries a carry from the neighbouring column or from further."""
    numbers, drawn = {}, {}
    for name, travels in (("made below", False), ("travelled", True)):
        found = carry_patching.report(model, digits, pairs=PAIRS, travels=travels)
        names = [f"column {column}" for column in found.columns]
        spots = range(len(found.columns))
        at_place = np.stack([found.effect[j, :, _last(found.effect[j, 0, :-1])] for j in spots], 1)
        control = np.stack([found.control[j, :, _last(found.control[j, 0, :-1])] for j in spots], 1)
        anywhere = found.effect[:, :, -1].T
        numbers[name] = {
            "pairs": found.pairs.tolist(),
            "columns": found.columns.tolist(),
            "at the state that writes the digit": _table(found.components, at_place),
            "control": _table(found.components, control),
            "everywhere": _table(found.components, anywhere),
            "control everywhere": _table(found.components, found.control[:, :, -1].T),
        }
        drawn[f"patch-{name.replace(' ', '-')}"] = figure_parts.matrix(
            np.concatenate([at_place, anywhere], 1),
            columns=[f"{n}<br>{where}" for where in ("there", "everywhere") for n in names],
            rows=found.components, theme="light", quantity="share that changes",
            title=f"Patching a carry in, {name}",
        )  # fmt: skip
    return numbers, drawn


def _last(line: Any) -> int:
    return int(np.flatnonzero(~np.isnan(line))[-1])


def _table(names: tuple[str, ...], values: Any) -> dict[str, list[float]]:
    return {name: np.round(line, 3).tolist() for name, line in zip(names, values, strict=True)}


def emerge(model: Model, digits: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """When the digits emerge, and how many answers are wrong."""
    suite = suites.build("addition-chains", 500, 1, digits, padded=True)
    found = suite_report.report(model, suite, label="chain")
    broken = failure_report.report(model, suite)
    numbers = {
        "accuracy": [found.accuracy.hits, found.accuracy.total],
        "curves": {
            curve.name: [curve.count, curve.never, curve.mean, curve.mean_low, curve.mean_high]
            for curve in found.curves
        },
        "wrong": broken.wrong,
    }
    return numbers, {"emergence": suite_figures.emergence(found, theme="light")}


def compare_failure(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The most similar right and wrong sums of a model that cannot add, and where they diverge."""
    model = analysis.load_model(name)
    found = failure_report.report(model, suites.build("addition-lengths", 24, 0, 3), most=1)
    (pair,) = found.pairs
    flow = pair.flows
    if flow is None:
        raise SystemExit(f"The heads of {name} cannot be separated.")
    head = np.unravel_index(int(np.nanargmax(pair.heads)), pair.heads.shape)
    strongest = [
        f"{flow.kinds[n]} {flow.layers[n]} head {flow.heads[n]} from {flow.sources[n]} at "
        f"{flow.targets[n]}: {flow.right_links[n]:.4f} right, {flow.wrong_links[n]:.4f} wrong"
        for n in range(6)
    ]
    numbers = {
        "right": found.right, "wrong": found.wrong, "alone": found.unpaired,
        "pair": [[one.prompt.splitlines()[-1], one.answer, one.written]
                 for one in (pair.right_prompt, pair.wrong_prompt) if one is not None],
        "first state apart by more than half": list(pair.first or ()),
        "mlps apart": pair.mlps.tolist(),
        "head farthest apart": [int(n) for n in head],
        "right probs": pair.right_probs.tolist(), "wrong probs": pair.wrong_probs.tolist(),
        "flows apart": flow.distance.tolist(), "links": strongest,
    }  # fmt: skip
    drawn = {
        "failure-states": failure_figures.states(pair, lambda *_: "", theme="light"),
        "failure-flows": failure_figures.flows(pair, flow, lambda *_: "", theme="light"),
        "failure-rows": failure_figures.probabilities(pair, lambda *_: "", theme="light"),
    }
    return numbers, drawn


def project(model: Model, sums: Table) -> dict[str, Any]:
    """The states that write column 1 on two axes, coloured by the carry or by the digit sum."""
    drawn = {}
    place = sums.answers[1] - 1
    choices: tuple[tuple[Component, Literal["carry", "digit_sum"]], ...] = (
        (Component("head", 0, 0), "carry"),
        (Component("row", 1), "digit_sum"),
    )
    for component, colour in choices:
        found = probes.projection(model, sums, component, place, 1)
        name = f"pca-{component.name.replace(' ', '').replace('.', '')}-1-{colour}"
        drawn[name] = sum_figures.projection(found, colour=colour, theme="light")
    return drawn


def _plain(value: Any) -> Any:
    """Round numbers to four places, and replace NaN by null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return round(value, 4) if np.isfinite(value) else None
    return value


def render(drawn: dict[str, Any], folder: Path) -> None:
    """Draw plotly figures as PNG with a headless Chromium."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("chromium-headless-shell", "chromium", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 980, "height": 700})
        page.set_content("<body style='margin:0;background:#fff'><div id='figure'></div></body>")
        page.add_script_tag(content=get_plotlyjs())
        for name, figure in drawn.items():
            figure["layout"]["width"] = 960
            made = json.dumps(figure, cls=PlotlyJSONEncoder)
            page.evaluate(f"Plotly.newPlot('figure', {made})")
            page.locator("#figure .main-svg").first.wait_for()
            page.locator("#figure .svg-container").screenshot(path=folder / f"{name}.png")
        browser.close()


def main() -> None:
    """Compute all parts, or those of ``--only``; this takes minutes on one core."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", default="addition-5digit")
    parser.add_argument(
        "--failing", default="smollm2-135m-instruct", help="a model that cannot add"
    )
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument(
        "--only", nargs="*", default=[], help="compute these parts and keep the others"
    )
    chosen = parser.parse_args()
    model = analysis.load_model(chosen.model)
    digits = sum_table.operand_digits(model) or 5
    sums = sum_table.random_sums(model, SUMS, 0, digits, padded=True)
    file = chosen.out / "carries.json"
    numbers: dict[str, Any] = json.loads(file.read_text()) if chosen.only else {}
    numbers["model"] = model.info.revision
    drawn: dict[str, Any] = {}
    parts: tuple[tuple[str, Callable[[], tuple[dict[str, Any], dict[str, Any]]]], ...] = (
        ("contributions", lambda: attribute(model, sums.part(np.arange(ATTRIBUTED)))),
        ("probes", lambda: probe(model, sums)),
        ("weights", lambda: read_weights(model)),
        ("patching", lambda: patch(model, digits)),
        ("emergence", lambda: emerge(model, digits)),
        ("shapes", lambda: ({}, project(model, sums))),
        ("failure", lambda: compare_failure(chosen.failing)),
    )
    for name, work in parts:
        if chosen.only and name not in chosen.only:
            continue
        started = time.perf_counter()
        found, more = work()
        numbers |= {name: found} if found else {}
        drawn.update(more)
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    file.write_text(json.dumps(_plain(numbers), indent=1) + "\n")
    render(drawn, chosen.out / "figures")


if __name__ == "__main__":
    main()
