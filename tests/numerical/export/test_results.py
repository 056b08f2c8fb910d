"""Every result of the registry as a data frame, a file, a summary and a script."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import analysis
from analysis.contract.sheets import FLAG, TEXT, UNITS, WHOLE, csv_text
from analysis.contract.specs import Result
from analysis.errors import MissingPackageError, SpecError, StoreError
from analysis.experiments.component_specs import ComponentGraphSpec
from analysis.experiments.specs import PromptSpec, SweepSpec
from analysis.export.recipes import Recipe, script
from analysis.export.sheets import SHEETS, frames, one_frame
from analysis.lens.specs import LensSpec
from analysis.registry import TECHNIQUES, Technique
from analysis.tasks.neuron_text_specs import NeuronTextSpec
from analysis.tracing.interventions import Ablate, Steer, SteerTokens
from tests.numerical.conftest import Case
from tests.support import fake_results
from tests.support.example_specs import example_spec
from tests.wiring.views.test_tasks import MADE

EXPERIMENTS = (
    partial(fake_results.neuron_texts, NeuronTextSpec("m", 1)),
    partial(fake_results.sweep, SweepSpec("m", "a", "b")),
    partial(fake_results.compared, PromptSpec("m", "a", "b")),
    partial(fake_results.component_graph, ComponentGraphSpec("m", "a", "b")),
)
STUDIES = {type(made()).__name__: made for made in (*MADE.values(), *EXPERIMENTS)}
COMPUTED = tuple(one for one in TECHNIQUES if one.subject in ("trace", "model"))


def result_of(case: Case, technique: Technique) -> Any:
    """The technique's result on the tiny model; a made-up report for a study."""
    if technique.subject == "study":
        return STUDIES[technique.result.__name__]()
    if technique.subject == "prompt":
        return technique.load()(case.model, technique.spec("tiny", "abc", new_tokens=2))[0]
    return analysis.compute(case.model, example_spec(technique.spec), case.trace)


@pytest.fixture(params=TECHNIQUES, ids=lambda one: one.name)
def result(request: pytest.FixtureRequest, llama: Case) -> Any:
    return result_of(llama, request.param)


def numbers(value: Any) -> Iterator[float]:
    """The numbers of the arrays of a result, those of its parts included."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        yield from value[np.isfinite(value)].tolist()
    elif isinstance(value, tuple):
        for part in value:
            yield from numbers(part)
    elif dataclasses.is_dataclass(value):
        for one in dataclasses.fields(value):
            yield from numbers(getattr(value, one.name))


def test_every_result_has_tables() -> None:
    assert {one.result for one in TECHNIQUES} == set(SHEETS)


def test_tables_have_named_columns_with_units(result: Any) -> None:
    for table in frames(result):
        assert table.columns
        assert set(table.columns.values()) <= set(UNITS)
        assert all(len(row) == len(table.columns) for row in table.rows)
        for at, unit in enumerate(table.columns.values()):
            kinds = {type(row[at]) for row in table.rows} - {type(None)}
            allowed = {TEXT: {str, int, float, bool}, FLAG: {bool}}.get(unit, {int, float})
            assert kinds <= allowed, (table.name, list(table.columns)[at], kinds)
    assert frames(result)[0].rows


#: Arrays that the tables leave out: they serve the page's figures only.
LEFT_OUT = {
    "Graph": ("node_whole",),
    "Story": ("attribution",),
    "Steps": ("largest",),
    "EmbeddingReport": ("self_nearest",),
    "SimilarityReport": ("row_norm",),
    "SuiteReport": ("emergence",),
    "FailureReport": ("pairs",),
    "Projection": ("explained",),
}


def test_no_number_of_an_array_is_missing(result: Any) -> None:
    """Each number of each array is in one of the tables, exactly as it is."""
    left_out = LEFT_OUT.get(type(result).__name__, ())
    shown = {
        float(value)
        for table in frames(result)
        for row in table.rows
        for value in row
        if isinstance(value, int | float)
    }
    for one in dataclasses.fields(result):
        if one.name not in left_out:
            assert set(numbers(getattr(result, one.name))) <= shown, one.name


def test_a_data_frame_holds_the_tables_numbers(result: Any, llama: Case) -> None:
    for table in frames(result, llama.trace.tokens):
        found = result.to_dataframe(llama.trace.tokens, table.name)
        assert list(found.columns) == list(table.columns)
        assert found.attrs["units"] == table.columns
        for at, (name, unit) in enumerate(table.columns.items()):
            values = [row[at] for row in table.rows]
            column = [None if missing else value for value, missing in
                      zip(found[name], found[name].isna(), strict=True)]  # fmt: skip
            wanted = [None if value is None or value != value else value for value in values]  # noqa: PLR0124
            assert column == wanted, (table.name, name)
            if unit in WHOLE and str(found[name].dtype) != "float64":
                assert str(found[name].dtype) == "Int64"


def test_a_saved_result_is_read_back_exactly(result: Any, tmp_path: Path) -> None:
    path = tmp_path / "result.safetensors"
    result.save(path)
    read = analysis.load_result(path)
    assert type(read) is type(result)
    for one in dataclasses.fields(result):
        saved, found = getattr(result, one.name), getattr(read, one.name)
        if isinstance(saved, np.ndarray):
            assert saved.dtype == found.dtype
            assert np.array_equal(saved, found, equal_nan=saved.dtype.kind == "f")
    assert json.loads(csv_safe(frames(read))) == json.loads(csv_safe(frames(result)))
    assert analysis.load_recipe(path) is None


def csv_safe(tables: Any) -> str:
    return json.dumps([csv_text(table.columns, table.rows) for table in tables])


class Reader(HTMLParser):
    """Collects tags and texts, and fails on an attribute that loads or runs something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert tag not in ("script", "link", "img", "iframe")
        assert not [name for name, _ in attrs if name.startswith("on") or name in ("src", "href")]
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_summary_is_html_that_needs_nothing_else(result: Any) -> None:
    text = result._repr_html_()
    reader = Reader()
    reader.feed(text)
    assert not reader.open
    assert reader.texts[0] == type(result).__name__
    assert "url(" not in text.replace("url(#", "")  # a clip path of the picture itself
    assert "#" not in "".join(part for part in text.split('"') if part.startswith("color:"))
    head = list(one_frame(result).columns)[:12]
    assert all(any(told.startswith(name) for told in reader.texts) for name in head)


def test_a_trace_and_a_model_have_a_summary(small: Case) -> None:
    trace = analysis.trace(small.model, "the <b>capital</b>")
    shown = []
    for one in (trace, small.model):
        reader = Reader()
        reader.feed(one._repr_html_())
        assert not reader.open
        shown.append(reader.texts)
    of_trace, of_model = shown
    values = dict(zip(of_trace[4::2], of_trace[5::2], strict=False))
    assert values["text"].endswith("the <b>capital</b>")
    weights = np.exp(trace.logits[-1] - trace.logits[-1].max())
    best = int(weights.argmax())
    assert values["next token"] == f"id {best}, probability {weights[best] / weights.sum():.4g}"
    assert f"{len(trace.tokens)} tokens, {len(trace.resid)} residual rows" in values["size"]
    assert of_model[0] == "ModelInfo"


@pytest.mark.parametrize("technique", COMPUTED, ids=lambda one: one.name)
def test_the_script_of_a_recipe_gives_the_same_numbers(technique: Technique, llama: Case) -> None:
    spec = example_spec(technique.spec)
    made = analysis.recipe(llama.model, llama.trace, spec)
    read = Recipe.from_json(json.loads(json.dumps(made.as_json())))
    assert read == made
    names = run_script(script(read), llama.model)
    wanted = analysis.compute(llama.model, spec, llama.trace)
    assert csv_safe(frames(names[technique.name])) == csv_safe(frames(wanted))


def run_script(code: str, model: Any) -> dict[str, Any]:
    """The names that a script defines; it gets a model that is loaded already."""
    names: dict[str, Any] = {}
    lines = code.splitlines()
    loads = [line for line in lines if line.startswith("model = analysis.load_model(")]
    assert len(loads) == 1
    ran = code.replace(loads[0], "model = loaded")
    exec(compile(ran, "script.py", "exec"), {"loaded": model, "print": len}, names)  # noqa: S102
    return names


def test_a_recipe_is_kept_with_a_result(llama: Case, tmp_path: Path) -> None:
    spec = example_spec(TECHNIQUES[1].spec)
    made = analysis.recipe(llama.model, llama.trace, spec)
    path = tmp_path / "grid.safetensors"
    analysis.compute(llama.model, spec, llama.trace).save(path, made)
    assert analysis.load_recipe(path) == made
    assert made.drift(llama.model.info) == ()


def test_a_recipe_holds_edits_and_refuses_vectors(llama: Case) -> None:
    edits = (Ablate("mlp", 1, pos=(0, 2)), SteerTokens(1, 0, 5, 7, 2.0))
    spec = LensSpec(k=2)
    edited = analysis.trace(llama.model, llama.trace.token_ids, edits)
    made = analysis.recipe(llama.model, edited, spec, edits=edits)
    made = Recipe.from_json(json.loads(json.dumps(made.as_json())))
    names = run_script(script(made), llama.model)
    wanted = analysis.decode(llama.model, edited, k=2)
    assert csv_safe(frames(names["decode"])) == csv_safe(frames(wanted))
    plain = analysis.decode(llama.model, llama.trace, k=2)
    assert csv_safe(frames(plain)) != csv_safe(frames(wanted))
    vector = np.zeros(llama.model.info.d_model, np.float32)
    steered = analysis.trace(llama.model, llama.trace.token_ids, Steer(1, 0, vector))
    with pytest.raises(SpecError, match="vector"):
        analysis.recipe(llama.model, steered, spec)


def test_a_recipe_names_what_has_drifted(llama: Case) -> None:
    made = analysis.recipe(llama.model, llama.trace)
    other = dataclasses.replace(llama.model.info, fingerprint="f2", dtype="bfloat16")
    old = dataclasses.replace(made, versions={**made.versions, "torch": "1.0"})
    found = " ".join(old.drift(other))
    assert "fingerprint is f2" in found
    assert "dtype is bfloat16, not float32" in found
    assert "version of torch" in found
    assert "not 1.0" in found


@pytest.mark.parametrize(
    "damaged",
    [None, [], {"layout": 0}, {"layout": 1}, {"layout": 1, "specs": 3, "trace": {"$type": "os"}}],
)
def test_a_damaged_recipe_is_refused(damaged: Any) -> None:
    with pytest.raises(SpecError):
        Recipe.from_json(damaged)


def test_files_that_hold_no_result_are_reported(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="can't be read"):
        analysis.load_result(tmp_path / "none")
    other = tmp_path / "other"
    other.write_bytes(b"no result")
    with pytest.raises(StoreError, match="holds no result"):
        analysis.load_result(other)
    with pytest.raises(StoreError, match="can't be written"):
        STUDIES["Projection"]().save(tmp_path / "no" / "folder")


def test_an_unknown_table_lists_the_tables(llama: Case) -> None:
    made = STUDIES["SuiteReport"]()
    assert analysis.tables(made) == ("prompts", "accuracy", "emergence")
    with pytest.raises(SpecError, match="prompts, accuracy, emergence"):
        made.to_dataframe(sheet="cells")
    with pytest.raises(SpecError, match="no tables of its own"):
        llama.trace.tokens[0].to_dataframe()


def test_without_pandas_the_error_says_how_to_install_it(monkeypatch: Any) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "analysis.export.results.find_spec", lambda name: None if name == "pandas" else find(name)
    )
    with pytest.raises(MissingPackageError, match=r"pip install 'stratascope\[pandas\]'"):
        STUDIES["Projection"]().to_dataframe()


def test_results_of_every_type_share_the_methods() -> None:
    own = {"to_dataframe", "save", "_repr_html_"}
    for kind in SHEETS:
        assert issubclass(kind, Result)
        assert not own & set(vars(kind)), kind


def test_a_grid_equals_its_data_frame(llama: Case) -> None:
    """An independent look at one table: cell by cell, against the arrays."""
    grid = analysis.decode(llama.model, llama.trace, k=3, target=[5, 7])
    found = grid.to_dataframe(llama.trace.tokens)
    for row in range(len(grid.rows)):
        for pos in range(len(grid.positions)):
            (cell,) = found[(found.row == row) & (found.position == pos)].to_dict("records")
            assert cell["token"] == llama.trace.tokens[pos].text
            assert cell["entropy"] == grid.entropy[row, pos]
            assert [cell[f"id_{k}"] for k in (1, 2, 3)] == grid.token_ids[row, pos].tolist()
            assert cell["p_7"] == grid.target_probs[row, pos, 1]
            assert cell["rank_5"] == grid.target_ranks[row, pos, 0]


def test_attention_and_flow_equal_their_data_frames(llama: Case) -> None:
    pattern = analysis.compute(llama.model, example_spec(TECHNIQUES[2].spec), llama.trace)
    weights = pattern.to_dataframe()
    for one in weights.itertuples():
        assert one.weight == pattern.pattern[one.head, one.query, one.key]
    heads, size = pattern.pattern.shape[:2]
    assert len(weights) == heads * size * (size + 1) // 2
    graph = analysis.flow(llama.model, llama.trace)
    links = graph.to_dataframe(llama.trace.tokens)
    assert sorted(links.flow) == sorted(graph.link_flow.tolist())
    assert links.source_token.iloc[0] == llama.trace.tokens[links.source_pos.iloc[0]].text
