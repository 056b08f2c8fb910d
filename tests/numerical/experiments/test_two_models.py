"""Two models in the page: its numbers are those of ``analysis.compare`` and ``analysis.decode``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import analysis
from analysis import codec
from analysis.errors import (
    ModelMismatchError,
    NotEnoughMemoryError,
    PromptError,
    SpecError,
    UnknownModelError,
)
from analysis.experiments.specs import PromptSpec, mismatch
from analysis.export.recipes import script
from analysis.registry import technique_for
from analysis.service import catalog_fingerprint
from analysis.worker.engine import Engine
from analysis.worker.messages import Limits, Request
from dash_app import export
from dash_app.app import VIEWS
from dash_app.server import run_command
from dash_app.settings import Settings
from dash_app.state.context import Context, from_query, to_query
from dash_app.state.selection import Selection
from dash_app.views.compare import SWEEP, actions, difference
from dash_app.views.compare.models import ONE_MODEL, Sides
from tests.support import tiny
from tests.support.components import text

ONE, TWO, OTHER = "one", "two", "addition-5digit"
PROMPT, SUM = "the capital of France is", "12345+67890="


class Offered:
    """A service in this process with every model of the catalogue."""

    problem = ""

    def __init__(self, limits: Limits | None = None) -> None:
        self.engine = Engine(limits or Limits())
        self.memo: dict[Any, Any] = {}
        self.computed = 0

    def ask(self, subject: Any, spec: Any, job: Any = None) -> Any:
        if (subject, spec) not in self.memo:
            kind = technique_for(spec)
            name = subject if isinstance(subject, str) else subject.model
            specs = (subject, spec) if kind.subject == "trace" else (spec,)
            second = getattr(spec, "other", "")
            prints = [catalog_fingerprint(one, None) if one else "" for one in (name, second)]
            request = Request(kind.name, name, prints[0], specs, other=prints[1])
            answer = self.engine.perform(request)
            assert answer.fingerprint == prints[0]
            self.memo[subject, spec] = codec.decode(answer.data)
            self.computed += 1
        return self.memo[subject, spec]

    def peek(self, subject: Any, spec: Any) -> Any:
        return self.memo.get((subject, spec))


@pytest.fixture(scope="module")
def folders(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two models with one tokenizer, on offer."""
    perturbed = tiny.save(tiny.tiny_llama(seed=1), tmp_path_factory.mktemp("two"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRATASCOPE_MODELS", f"{ONE}={tiny_llama_dir},{TWO}={perturbed}")
        yield perturbed


@pytest.fixture(scope="module")
def service(folders: Path) -> Offered:
    return Offered()


@pytest.fixture
def chosen() -> Selection:
    return Selection(
        model=ONE, prompt="x", attempt=1, page="compare", clean=PROMPT, other=TWO,
        panes=("difference",),
    )  # fmt: skip


def no_job(_start: float, _end: float) -> None:
    return None


def beside_the_form(service: Any, chosen: Selection, ready: Any = None) -> dict[str, Any]:
    """What the pane Patching and the place below the form show."""
    shown = actions.draw(service, None, chosen, "light", ready)
    names = [f"{one.component_id}.{one.component_property}" for one in SWEEP.outputs]
    return {**dict(zip(names, shown.values, strict=True)), "complete": shown.complete}


def draw(service: Any, chosen: Selection, ready: Any = None) -> Any:
    return difference.draw(service, None, chosen, "light", ready)


def test_the_page_shows_the_numbers_of_compare(service: Offered, chosen: Selection) -> None:
    assert not draw(service, chosen).complete
    assert not beside_the_form(service, chosen)["complete"]
    assert difference.compute(service, chosen, no_job) == {"done": 1}
    models = [analysis.load_model(name) for name in (ONE, TWO)]
    found = analysis.compare(models[0], PROMPT, other=models[1], alignment="position")
    assert found.kl.max() > 0.01
    first = found.a_probs[..., 0]
    for apart, values, label in (
        ("kl", found.kl, "KL(A ‖ B) in nats"),
        ("probability", found.b_probs[..., 0] - first, "B minus A"),
        ("clean", first, "in model A"),
        ("corrupted", found.b_probs[..., 0], "in model B"),
    ):
        shown = draw(service, chosen.model_copy(update={"apart": apart}))
        figure, caption, switches = shown.values
        assert shown.complete
        np.testing.assert_array_equal(figure["data"][0]["z"], values.astype(np.float32))
        assert caption.startswith("A is one, B is two. ")
        assert label in caption
        assert "Model A" in text(switches)
    below = beside_the_form(service, chosen)
    assert below["complete"]
    assert below["compare-caption.children"] == ONE_MODEL
    assert below["compare-rest.hidden"]
    assert below["compare-message.children"] == []


def test_the_link_the_recipe_and_the_script_give_the_same_numbers(
    service: Offered, chosen: Selection, tmp_path: Path
) -> None:
    base = Selection(model=ONE)
    query = to_query(chosen, base, ("model",))
    again, ignored = from_query(query, base)
    assert ignored == ()
    assert again.model_copy(update={"attempt": 1}) == chosen
    settings = Settings(data_dir=tmp_path / "data", cache_dir=tmp_path / "cache")
    context = Context(service, settings, ((ONE, ONE), (TWO, TWO)))
    taken = run_command._of_link(context, query, "difference")
    wanted = service.ask(ONE, difference.spec_of(chosen))
    table = taken.tables[0]
    assert [row[list(table.columns).index("kl")] for row in table.rows] == pytest.approx(
        wanted.kl.reshape(-1).tolist()
    )
    assert export.as_json(export.from_memo(context, VIEWS, "difference", query)) == export.as_json(
        taken
    )
    made = taken.recipe
    assert made.other == TWO
    assert made.identity["other_fingerprint"] == catalog_fingerprint(TWO, None)
    assert made.identity["fingerprint"] != made.identity["other_fingerprint"]
    changed = made.identity | {"other_fingerprint": "x"}
    drift = type(made)(**{**vars_of(made), "identity": changed}).drift(*export.infos(service, made))
    assert [line for line in drift if "second model's fingerprint" in line]
    printed: list[Any] = []
    names: dict[str, Any] = {"print": printed.append}
    exec(compile(script(made), "script.py", "exec"), names)  # noqa: S102
    np.testing.assert_array_equal(names["compare_prompts"].kl, wanted.kl)
    assert printed


def vars_of(value: Any) -> dict[str, Any]:
    """The fields of a dataclass with slots."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def test_models_that_do_not_fit_together_stand_side_by_side(
    service: Offered, chosen: Selection
) -> None:
    wanted = chosen.model_copy(update={"clean": SUM, "other": OTHER})
    assert not draw(service, wanted).complete
    assert difference.compute(service, wanted, no_job) == {"done": 1}
    before = service.computed
    shown = draw(service, wanted)
    assert (shown.complete, service.computed) == (True, before)
    figure, caption, switches = shown.values
    assert switches == []
    for heat, name in zip(figure["data"], (ONE, OTHER), strict=True):
        model = analysis.load_model(name)
        grid = analysis.decode(model, analysis.trace(model, SUM))
        np.testing.assert_allclose(heat["z"], grid.probs[..., 0], atol=1e-6)
    assert caption.startswith("one has 3 layers and addition-5digit has 2. So each model is")
    found = difference.known(service, wanted)
    assert isinstance(found, Sides)
    reading = " and ".join(str(len(run.tokens)) for run in found.runs)
    assert f"positions (of {reading}) end at the same character" in caption
    assert "at the same character" in figure["data"][0]["hovertext"][-1][-1]
    with pytest.raises(SpecError, match="There is no difference to export"):
        difference.specs(service, None, wanted)
    assert beside_the_form(service, wanted)["complete"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"other": "elsewhere/model"}, "There is no model named"),
        ({"other": OTHER}, "Model B can't be used. Prompt A has"),
        ({"clean": "", "corrupted": "x"}, "Prompt A is empty."),
        ({"answer": " Paris France"}, "The followed token ' Paris France' is"),
    ],
)
def test_a_problem_of_the_second_model_is_shown_below_the_form(
    service: Offered, chosen: Selection, changes: dict[str, Any], words: str
) -> None:
    wanted = chosen.model_copy(update=changes)
    ended = actions.compute(service, wanted, no_job, hand_over=lambda _part: None)
    assert ended is not None
    below = beside_the_form(service, wanted, ended)
    assert below["complete"]
    assert words in text(below["compare-message.children"])
    marked = {name for name in ("clean", "answer") if below[f"compare-{name}.invalid"]}
    assert marked == {name for name in ("clean", "answer") if name in changes}
    assert draw(service, wanted, ended).complete


def test_two_models_over_the_limit_of_the_server_are_refused(folders: Path) -> None:
    tight = Offered(Limits(model_bytes=100_000_000))
    with pytest.raises(
        NotEnoughMemoryError, match=r"^Model B can't be used. one and two need about 0.2 GB"
    ):
        tight.ask(ONE, PromptSpec(ONE, PROMPT, other=TWO))
    assert (tight.ask(ONE, PromptSpec(ONE, PROMPT, other=ONE)).kl == 0).all()


def test_a_second_model_that_is_not_offered_is_refused(service: Offered, folders: Path) -> None:
    with pytest.raises(UnknownModelError):
        service.ask(ONE, PromptSpec(ONE, PROMPT, other=str(folders)))


def test_both_models_stay_loaded(service: Offered) -> None:
    service.ask(ONE, PromptSpec(ONE, "one two", other=TWO))
    names = {key[0] for key in service.engine._models if isinstance(key, tuple)}
    assert names >= {ONE, TWO}


def test_why_models_differ_is_one_sentence() -> None:
    found = partial(mismatch, ("A", "B"))
    assert found((2, 3), (9, 9), {}) == "A has 2 layers and B has 3."
    assert found((2, 2), (9, 8), {}) == "A has 9 tokens in the vocabulary and B has 8."
    assert "Prompt B as different tokens: 1 and 2." in found((2, 2), (9, 9), {"b": ((1,), (1, 2))})
    assert found((2, 2), (9, 9), {"a": ((1,), [1])}) == ""
    assert issubclass(ModelMismatchError, SpecError)
    assert not issubclass(PromptError, SpecError)
