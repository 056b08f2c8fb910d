"""``stratascope decode``, ``flow`` and the other techniques from a terminal."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import analysis
from analysis.export.sheets import SHEETS
from analysis.interventions import Steer
from analysis.registry import TECHNIQUES
from analysis.tasks.probes import probe_direction
from analysis.tracing.generation import run as run_prompt
from dash_app import cli
from dash_app.state import branches
from dash_app.state.selection import Selection, run_spec

PROMPT = "abc def"
Run = Callable[..., str]


@pytest.fixture
def run(tiny_llama_dir: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command on the tiny model and give what it prints."""

    def command(name: str, *more: str) -> str:
        assert cli.main([name, str(tiny_llama_dir), PROMPT, *more]) == 0
        return capsys.readouterr().out

    return command


@pytest.fixture(scope="module")
def pair(tiny_llama_dir: Path) -> tuple[Any, Any]:
    model = analysis.load_model(str(tiny_llama_dir))
    return model, analysis.trace(model, PROMPT)


def test_decode_prints_the_numbers_of_the_function(run: Run, pair: tuple[Any, Any]) -> None:
    printed = json.loads(
        run("decode", "--component", "mlp_output", "--norm", "unit", "--k", "3", "--rows", "0",
            "-1", "--target", "5", "7", "--json")
    )  # fmt: skip
    grid = analysis.decode(
        *pair, component="mlp_output", norm="unit", k=3, rows=(0, -1), target=(5, 7)
    )
    found = printed["result"]
    assert found["token_ids"] == grid.token_ids.tolist()
    for name in ("probs", "entropy", "kl_to_final", "target_probs"):
        assert np.array_equal(np.array(found[name], np.float32), getattr(grid, name)), name
    assert [token["id"] for token in printed["tokens"]] == list(pair[1].token_ids)
    assert printed["spec"]["norm"] == "unit"


def test_decode_prints_the_same_as_csv(run: Run, pair: tuple[Any, Any]) -> None:
    rows = list(csv.DictReader(io.StringIO(run("decode", "--k", "2", "--csv"))))
    grid = analysis.decode(*pair, k=2)
    assert len(rows) == grid.entropy.size
    assert [int(row["id_2"]) for row in rows] == grid.token_ids[..., 1].flatten().tolist()
    probs = np.array([row["probability_1"] for row in rows], np.float32)
    assert np.array_equal(probs, grid.probs[..., 0].flatten())
    assert {int(row["row"]) for row in rows} == set(grid.rows.tolist())


@pytest.mark.parametrize("method", ["proximity", "signed"])
def test_flow_prints_the_links_of_the_function(
    run: Run, pair: tuple[Any, Any], method: str
) -> None:
    printed = json.loads(run("flow", "--method", method, "--no-per-head", "--json"))["result"]
    graph = analysis.flow(*pair, method=method, per_head=False)
    assert printed["links"] == [link._asdict() for link in graph.links]
    assert printed["hidden_share"] == graph.hidden_share
    shown = list(csv.DictReader(io.StringIO(run("flow", "--method", method, "--csv"))))
    whole = analysis.flow(*pair, method=method)
    assert len(shown) == len(whole.links)
    assert np.isclose(
        sum(float(row["flow"]) for row in shown), sum(link.flow for link in whole.links)
    )


def test_a_flow_upwards_starts_at_the_tokens(run: Run, pair: tuple[Any, Any]) -> None:
    printed = json.loads(run("flow", "--direction", "up", "--position", "0", "--json"))["result"]
    assert printed["row"] == 0
    several = json.loads(run("flow", "--position", "0", "1", "--json"))["result"]
    assert several["roots"] == [0, 1]


def test_a_table_is_readable(run: Run) -> None:
    lines = run("flow", "--method", "proximity", "--budget", "5").splitlines()
    assert lines[0].split() == [
        "kind", "layer", "head", "source_pos", "target_pos", "source", "target", "share", "flow",
        "measured", "source_token", "target_token",
    ]  # fmt: skip
    assert 2 <= len(lines) <= 6
    assert "candidate_1" in run("decode", "--k", "1")


def test_the_prompt_can_come_from_standard_input(
    tiny_llama_dir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    run: Run,
) -> None:
    wanted = run("decode", "--csv")
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{PROMPT}\n"))
    assert cli.main(["decode", str(tiny_llama_dir), "--csv"]) == 0
    assert capsys.readouterr().out == wanted


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("decode", "MODEL", ""), "There is no prompt. Write it after the model"),
        (("decode", "MODEL", "x", "--head", "1"), "A head goes with the components"),
        (
            ("flow", "MODEL", "x", "--method", "norm", "--foil", "3"),
            "does not depend on a token. Choose the method signed",
        ),
        (("flow", "MODEL", "x", "--row", "99"), "Row 99 does not exist."),
        (("decode", "no-such", "x"), "no-such"),
    ],
)
def test_an_error_is_reported_in_one_sentence(
    arguments: tuple[str, ...],
    said: str,
    tiny_llama_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [str(tiny_llama_dir) if word == "MODEL" else word for word in arguments]
    assert cli.main(words) == 1
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.out == ""


def test_an_unknown_choice_lists_the_choices(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["decode", "m", "x", "--decoder", "outptu"])
    assert "invalid choice: 'outptu' (choose from" in capsys.readouterr().err


@pytest.mark.parametrize(
    "technique", [one for one in TECHNIQUES if one.subject == "trace"], ids=lambda one: one.name
)
def test_every_technique_explains_its_options(
    technique: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([technique.name.replace("_", "-"), "--help"])
    assert ended.value.code == 0
    assert "MODEL" in capsys.readouterr().out.upper()


@pytest.mark.parametrize(
    "words",
    [
        ("pattern", "--layer", "0"),
        ("causal", "--flow-method", "norm", "--limit", "2"),
        ("colours", "--lens-norm", "unit", "--quantities", "state_norm", "proximity"),
        ("promoted", "--component", "mlp_output", "--layer", "0", "--position", "-1"),
        ("largest-steps",),
    ],
)
def test_other_techniques_print_their_main_table(run: Run, words: tuple[str, ...]) -> None:
    lines = run(*words).splitlines()
    technique = next(one for one in TECHNIQUES if one.name == words[0].replace("-", "_"))
    assert lines[0].split()[: len(SHEETS[technique.result][0].columns)] == [
        *SHEETS[technique.result][0].columns
    ]
    assert len(lines) > 1
    assert json.loads(run(*words, "--json"))["result"]


def test_reports_on_heads_and_neurons_print_the_numbers_of_the_functions(
    tiny_llama_dir: Path, pair: tuple[Any, Any], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    model, trace = pair
    assert cli.main(["carry-circuits", str(tiny_llama_dir), "--digits", "3", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)["result"]
    wanted = analysis.carry_circuits(model, 3)
    assert np.array_equal(np.array(printed["carry"], np.float32), wanted.carry)
    texts = ("--layer", "1", "--texts", "abc\n def", "--json")
    assert cli.main(["neuron-texts", str(tiny_llama_dir), *texts]) == 0
    printed = json.loads(capsys.readouterr().out)["result"]
    fired = analysis.neuron_texts(model, 1, ("abc", "def"))
    effects = ("--suite", "induction", "--size", "2", "--limit", "3", "--methods", "attention")
    assert cli.main(["suite-effects", str(tiny_llama_dir), *effects, "--json"]) == 0
    checked = json.loads(capsys.readouterr().out)["result"]
    own = analysis.suite_effects(model, "induction", size=2, limit=3, methods=("attention",))
    assert np.array_equal(np.array(checked["effect"], np.float32), own.effect)
    assert np.array_equal(np.array(printed["activations"], np.float32), fired.activations)
    read = json.loads(run("state-circuits", "--layer", "1", "--head", "2", "--json"))["result"]
    states = analysis.state_circuits(model, trace, 1, 2)
    assert read["own_ranks"] == states.own_ranks.tolist()
    routed = json.loads(run("experts", "--layer", "1", "--json"))["result"]
    assert routed["missing"] == analysis.experts(model, trace, 1).missing


@pytest.mark.parametrize("way", [{}, {"sampling": "sampled", "temperature": 1.5, "seed": 3}])
def test_generate_prints_the_numbers_of_the_page_and_of_python(
    run: Run, pair: tuple[Any, Any], tiny_llama_dir: Path, way: dict[str, Any]
) -> None:
    model = pair[0]
    drawn = {"sample": True, "temperature": 1.5, "seed": 3} if way else {}
    words = ["--temperature", "1.5", "--seed", "3"] if way else []
    own = analysis.generate(model, PROMPT, 5, **drawn)
    size = len(pair[1].tokens)
    printed = json.loads(run("generate", "--tokens", "5", *words, "--json"))
    assert [token["id"] for token in printed["tokens"]] == list(own)
    other = (own[size + 2] + 1) % model.info.vocab  # the page: a click on an alternative
    name = branches.taken(own[size : size + 2], other, "x")
    text = branches.written((*own[size : size + 2], other), "ab")  # then a text of one's own
    for branch, take in ((name, ["2", f"#{other}"]), (text, ["3", "ab"])):
        words += ["--take", *take]
        printed = json.loads(run("generate", "--tokens", "5", *words, "--json"))
        asked = Selection(model=str(tiny_llama_dir), prompt=PROMPT, new=5, branch=branch, **way)
        page, _ = run_prompt(model, run_spec(asked))
        assert [token["id"] for token in printed["tokens"]] == list(page.token_ids)
        for part in ("next_prob", "top_probs", "entropy"):
            found = np.array(printed["result"][part], np.float32)
            assert np.array_equal(found, getattr(page, part), equal_nan=True), part
        assert (printed["result"]["given"], page.given > 2) == (page.given, True)
    lines = run("generate", "--tokens", "5", *words).splitlines()
    table = lines[lines.index(next(line for line in lines if line.startswith("step "))) :]
    assert len(table) == 1 + len(page.tokens) - size
    assert [line.split()[1] for line in table[1:]] == [str(n) for n in page.token_ids[size:]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--take", "9", "a"), "The answer has 3 tokens, so it has no step 9."),
        (("--take", "x", "a"), "The step 'x' is not a whole number."),
        (("--take", "0", ""), "There is no text for step 0."),
        (("--take", "0", "#99999999"), "Token id 99999999 is not in the vocabulary."),
        (("--top-p", "2"), "top_p must be above 0"),
    ],
)
def test_an_answer_that_can_not_be_generated_is_refused(
    words: tuple[str, ...], said: str, tiny_llama_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["generate", str(tiny_llama_dir), PROMPT, "--tokens", "3", *words]) == 1
    assert said in capsys.readouterr().err


def test_a_direction_of_a_probe_is_saved_listed_and_steered_by(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, sum_ = "addition-5digit", "11111+22222="
    probe = ["direction", "probe", model, "carry-in", "--target", "carry1", "--row", "2"]
    assert cli.main([*probe, "--sums", "300"]) == 0
    edit = capsys.readouterr().out.splitlines()[-1].partition("--edit ")[2]
    assert cli.main(["direction", "list"]) == 0
    assert capsys.readouterr().out.startswith(f"carry-in  for {model}, row 2, length")
    assert cli.main([*probe, "--sums", "300"]) == 1
    assert "There is already a direction 'carry-in'." in capsys.readouterr().err
    kind, row, _, name, strength = edit.split(":")
    steered = f"{kind}:{row}:-1:{name}:{strength}"  # the sum here has no answer yet
    assert cli.main(["decode", model, sum_, "--edit", steered, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)["result"]["probs"]
    loaded = analysis.load_model(model)
    found = probe_direction(loaded, "carry1", 2, sums=300)
    by_vector = Steer(int(row), -1, float(strength) * found.vector)
    wanted = analysis.decode(loaded, analysis.trace(loaded, sum_, [by_vector])).probs
    assert np.array_equal(np.array(printed, np.float32), wanted)
    plain = analysis.decode(loaded, analysis.trace(loaded, sum_)).probs
    assert not np.array_equal(plain, wanted)


def test_sweep_prints_the_numbers_of_the_function(
    tiny_llama_dir: Path, pair: tuple[Any, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--clean", "abcd", "--corrupted", "abed", "--answer", "x", "--foil", "y")
    for more in (("--axes", "part"), ("--axes", "state", "--no-exact")):
        assert cli.main(["sweep", str(tiny_llama_dir), *words, *more, "--json"]) == 0
        printed = json.loads(capsys.readouterr().out)["result"]
        wanted = analysis.sweep(
            pair[0], "abcd", "abed", answer="x", foil="y", axes=more[1], exact=len(more) == 2
        )
        assert np.array_equal(np.array(printed["effect"], np.float32), wanted.effect)
    assert cli.main(["sweep", str(tiny_llama_dir), *words, "--axes", "head", "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 12
    assert rows[0]["measured"] == "True"


def test_component_graph_prints_the_edges_of_the_function(
    tiny_llama_dir: Path, pair: tuple[Any, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--clean", "abcd", "--corrupted", "abed", "--edges", "20", "--measured", "2")
    command = ["component-graph", str(tiny_llama_dir), *words, "--draws", "1"]
    assert cli.main([*command, "--answer", "x", "--foil", "y", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)["result"]
    wanted = analysis.component_graph(
        pair[0], "abcd", "abed", answer="x", foil="y", edges=20, measured=2, draws=1
    )
    assert printed["senders"] == list(wanted.senders)
    for name in ("edge_effect", "kept", "removed"):
        found = np.array(printed[name], np.float32)
        np.testing.assert_allclose(found, getattr(wanted, name), rtol=1e-5, equal_nan=True)


def test_compare_prompts_prints_the_numbers_of_the_function(
    tiny_llama_dir: Path, pair: tuple[Any, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--a", "abcd", "--b", "abed", "--tokens", "x", "y", "--json")
    assert cli.main(["compare-prompts", str(tiny_llama_dir), *words]) == 0
    printed = json.loads(capsys.readouterr().out)["result"]
    wanted = analysis.compare(pair[0], "abcd", "abed", tokens=("x", "y"))
    for name in ("kl", "a_probs", "b_probs"):
        assert np.array_equal(np.array(printed[name], np.float32), getattr(wanted, name))
    words = ("--a", "abcd", "--other", str(tiny_llama_dir), "--json")
    assert cli.main(["compare-prompts", str(tiny_llama_dir), *words]) == 0
    twins = np.array(json.loads(capsys.readouterr().out)["result"]["kl"])
    assert twins.shape[1] == 4
    assert (twins == 0).all()


def test_a_sweep_without_a_prompt_is_refused(
    tiny_llama_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sweep", str(tiny_llama_dir), "--clean", "abcd", "--corrupted", "abcde"]
    assert cli.main(words) == 1
    assert "4 and 5 tokens" in capsys.readouterr().err


def test_the_commands_need_no_torch_to_be_listed() -> None:
    code = "import sys; from dash_app import cli; cli._parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_edit_gives_the_numbers_of_the_same_call_in_python(
    run: Run, pair: tuple[Any, Any]
) -> None:
    printed = run("decode", "--json", "--edit", "ablate:mlp_output:1:all:0:zero")
    model, plain = pair
    edit = analysis.interventions.Ablate("mlp_output", 1, pos=0)
    edited = analysis.trace(model, PROMPT, interventions=[edit])
    found = np.array(json.loads(printed)["result"]["probs"], np.float32)
    assert np.array_equal(found, analysis.decode(model, edited).probs)
    assert not np.array_equal(found, analysis.decode(model, plain).probs)


def test_reports_on_a_model_take_no_prompt(
    tiny_llama_dir: Path, pair: tuple[Any, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ["--layer", "1", "--head", "2", "--token", "7", "--k", "3", "--json"]
    assert cli.main(["circuits", str(tiny_llama_dir), *chosen]) == 0
    printed = json.loads(capsys.readouterr().out)["result"]
    found = analysis.circuits(pair[0], 1, 2, token=7, k=3)
    assert printed["promoted"] == found.promoted.tolist()
    assert printed["copying"] == found.copying
    assert cli.main(["weights", str(tiny_llama_dir), "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    report = analysis.weight_report(pair[0])
    assert [float(row["sink"]) for row in rows] == pytest.approx(report.kinds[4].tolist())
