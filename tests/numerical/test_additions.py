"""A decoder, a flow method and a technique, each added where it is declared, appear everywhere."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dash import html
from plotly.io.json import to_json_plotly as to_json

import analysis
from analysis import registry
from analysis.contract.choices import Choices, about
from analysis.contract.specs import Floats, Result, Spec
from analysis.errors import SpecError
from analysis.flow_graph import methods
from analysis.flow_graph.options import FLOW_METHODS
from analysis.lens.cells import Reader
from analysis.lens.options import DECODERS
from analysis.lens.specs import LensSpec
from analysis.registry import Technique, technique_for
from dash_app import app as app_module
from dash_app import cli
from dash_app.page import layout as page_layout
from dash_app.page.panes import Pane
from dash_app.settings import Settings
from dash_app.state.context import View, from_query
from dash_app.state.selection import Selection
from dash_app.views.disagreement import decoders
from dash_app.views.flow.specs import options as flow_controls
from dash_app.views.heatmap.options import bar
from tests.numerical.conftest import Case
from tests.support import synthetic
from tests.support.fake_service import FakeService
from tools.reference import reference


def three_quarters(readout: Any, depth: float) -> list[Reader]:
    return [Reader(readout, 0.75)]


def twice_norm(step: Any) -> Any:
    return methods.norm(step)


@dataclass(frozen=True, slots=True)
class StateSizes(Result):
    """Sizes of one row's states."""

    sizes: Floats


@dataclass(frozen=True, slots=True)
class StateSizeSpec(Spec[StateSizes]):
    """How long the states of one row are."""

    row: int = field(default=0, metadata=about("The row that is measured."))


def state_sizes(model: Any, trace: Any, spec: StateSizeSpec) -> StateSizes:
    return StateSizes(np.linalg.norm(trace.resid[spec.row], axis=-1).astype(np.float32))


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row in each table, and nothing else."""
    here = __name__
    row = replace(
        DECODERS["linear"], name="three_quarters", label="Three quarters",
        help="A quarter of the input matrix.", function=f"{here}:three_quarters", by_row=False,
    )  # fmt: skip
    monkeypatch.setitem(DECODERS.rows, row.name, row)
    method = replace(
        FLOW_METHODS["norm"], name="twice_norm", label="Twice the norm",
        help="The norm, but double.", function=f"{here}:twice_norm",
    )  # fmt: skip
    monkeypatch.setitem(FLOW_METHODS.rows, method.name, method)
    technique = Technique("state_sizes", "trace", StateSizeSpec, StateSizes, f"{here}:state_sizes")
    monkeypatch.setattr(registry, "TECHNIQUES", (*registry.TECHNIQUES, technique))


def text(*parts: Any) -> str:
    return json.dumps(json.loads(to_json(list(parts))), ensure_ascii=False)


def helped(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit):
        cli.main([*words, "--help"])
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.usefixtures("added")
def test_a_decoder_appears_everywhere(llama: Case, capsys: pytest.CaptureFixture[str]) -> None:
    grid = analysis.decode(llama.model, llama.trace, decoder="three_quarters", norm="none", k=1)
    matrices = (
        llama.model.hf.get_input_embeddings().weight.double().numpy(),
        llama.model.hf.get_output_embeddings().weight.double().numpy(),
    )
    logits = llama.trace.resid.astype(np.float64) @ (0.25 * matrices[0] + 0.75 * matrices[1]).T
    assert (grid.token_ids[..., 0] == logits.argmax(-1)).all()
    chosen, ignored = from_query("decoder=three_quarters", Selection())
    assert (chosen.decoder, ignored) == ("three_quarters", ())
    menus = text(*bar(chosen))
    assert "decoder=three_quarters" in menus
    assert "A quarter of the input matrix" in menus
    result = synthetic.run_result(12, 6)
    tied = replace(result, info=replace(result.info, tied_embeddings=True))
    assert "Embeddings are tied" in {one.value: one.unless for one in decoders(tied, False)}[
        "three_quarters"
    ]  # fmt: skip
    assert "three_quarters ((1" in helped(capsys, "decode")
    assert "| `three_quarters` | Three quarters |" in reference()


@pytest.mark.usefixtures("added")
def test_a_flow_method_appears_everywhere(llama: Case, capsys: pytest.CaptureFixture[str]) -> None:
    graph = analysis.flow(llama.model, llama.trace, method="twice_norm")
    assert graph.links == analysis.flow(llama.model, llama.trace, method="norm").links
    chosen, ignored = from_query("method=twice_norm", Selection())
    assert (chosen.method, ignored) == ("twice_norm", ())
    controls = text(*flow_controls(chosen))
    assert "method=twice_norm" in controls
    assert controls.count("The norm, but double.") == 2  # on its button, and as the chosen one
    assert "The norm, but double." in helped(capsys, "flow")
    assert "| `twice_norm` | Twice the norm |" in reference()


@pytest.mark.usefixtures("added")
def test_a_technique_appears_everywhere(
    tiny_llama_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert technique_for(StateSizeSpec()).result is StateSizes
    pane = Pane("sizes", "Sizes", "How long states are", html.Div())
    view = View("sizes", lambda _context: {"sizes": pane})
    monkeypatch.setattr(page_layout, "ANSWER", (*page_layout.ANSWER, "sizes"))
    monkeypatch.setattr(app_module, "VIEWS", (*app_module.VIEWS, view))
    app = app_module.create_app(FakeService(), Settings(data_dir=tmp_path, cache_dir=tmp_path))
    assert "How long states are" in text(app.layout())
    assert "The row that is measured. Default: 0." in helped(capsys, "state-sizes")
    assert cli.main(["state-sizes", str(tiny_llama_dir), "abc", "--row", "1", "--json"]) == 0
    model = analysis.load_model(str(tiny_llama_dir))
    wanted = np.linalg.norm(analysis.trace(model, "abc").resid[1], axis=-1)
    assert np.allclose(json.loads(capsys.readouterr().out)["result"]["sizes"], wanted)
    assert "### state_sizes\n\nHow long the states of one row are." in reference()


def test_without_a_row_there_is_no_choice() -> None:
    with pytest.raises(SpecError, match="There is no decoder 'three_quarters'"):
        LensSpec(decoder="three_quarters")
    assert isinstance(DECODERS, Choices)
    assert "three_quarters" not in reference()
