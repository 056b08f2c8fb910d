"""A learned lens on a toy model: training, decoding, resuming, identity."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import analysis
from analysis.contract import jobs
from analysis.errors import CancelledError, SpecError, StoreError
from analysis.learned import library, translators
from analysis.learned.translators import LogitLens, new_lens
from analysis.lens.specs import ColourSpec, DisagreementSpec, LensSpec
from analysis.lens_training import texts
from analysis.lens_training.commands import add_to
from analysis.lens_training.fit import rate_at, rows_of, scales, tokens_of
from analysis.lens_training.training import evaluate, run, table
from analysis.model.handle import Model
from analysis.service import Service
from analysis.tracing.specs import TraceSpec
from analysis.worker.messages import ServiceSettings
from tests.numerical.lens.test_grid import slow_norm, softmax
from tests.support.command_line import run as run_command
from tests.support.repository import ROOT
from tests.support.toy_lens import SHORT, SPEC, ignore, session


@pytest.fixture(scope="module")
def opened(tiny_llama_dir: Path) -> Model:
    """The tiny untied Llama as the catalogue knows it: a folder, with a fingerprint."""
    return analysis.load_model(str(tiny_llama_dir))


@pytest.fixture(scope="module")
def toy(opened: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[library.LensInfo]:
    """A low-rank lens for it, trained on text that the toy generates, in a data folder."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRATASCOPE_DATA_DIR", str(folder))
        yield run(
            session(opened, library.own_folder() / "toy.safetensors", SPEC),
            resume=False,
            report=ignore,
        )


# -- it learns -----------------------------------------------------------------------------


def test_it_beats_the_logit_lens_on_held_out_text(toy: library.LensInfo) -> None:
    assert [part.text for part in toy.evaluations] == [
        "the model's own words, other topics",
        "Python's reference manual",
    ]
    for part in toy.evaluations:
        assert part.tokens == 200
        assert part.better == len(part.rows) == 3
        for row in part.rows:
            assert row.learned_kl < 0.8 * row.logit_kl


def test_figures_equal_a_loop_over_tokens(opened: Model, toy: library.LensInfo) -> None:
    lens, text = translators.load_lens(toy), texts.manual(opened, 200, 5)
    found = evaluate(opened, lens, text, 150)
    sums = np.zeros((3, 4))
    for ids in (text.parts[0], text.parts[1][:22]):  # 128 tokens a window
        trace = analysis.trace(opened, ids)
        for pos in range(len(ids)):
            own = softmax(trace.logits[pos].astype(np.float64))
            for row in range(3):
                for column, reader in enumerate((LogitLens(), lens)):
                    state = torch.from_numpy(trace.resid[row, pos : pos + 1])
                    logits = reader.logits(opened.readout, state, row)[0].double().numpy()
                    read = softmax(logits)
                    sums[row, column] += (own * (np.log(own) - np.log(read))).sum()
                    sums[row, 2 + column] += logits.argmax() == own.argmax()
    for row, sums_of_row in zip(found.rows, sums / 150, strict=True):
        got = (row.logit_kl, row.learned_kl, row.logit_top1, row.learned_top1)
        np.testing.assert_allclose(got, sums_of_row, rtol=1e-4)
    assert f"| 2 | {sums[2, 0] / 150:.3f} | {sums[2, 1] / 150:.3f} |" in table(found)


def test_full_matrices_learn_too(opened: Model, tmp_path: Path) -> None:
    info = run(
        session(opened, tmp_path / "full.safetensors", replace(SPEC, rank=0, rate=5e-3)),
        resume=False,
        report=ignore,
    )
    assert info.shape == "full matrices"
    assert translators.load_lens(info).rank == 0
    assert all(part.better == 3 for part in info.evaluations)


def test_an_untrained_lens_is_the_logit_lens() -> None:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(4, 8, generator=generator)
    lens = new_lens(torch.rand(2, 8) + 0.5, torch.ones(2), 3, seed=0)
    for row in (0, 1, 2):
        assert torch.equal(lens.translate(states, row), states)


def test_scales_ignore_a_few_huge_states() -> None:
    states = np.random.default_rng(0).normal(0, 2.0, (2, 3000, 5)).astype(np.float32)
    states[0, ::100, 3] = 1e4
    inner, outer = scales(states)
    np.testing.assert_allclose(inner[0].numpy(), 2.0, rtol=0.1)
    assert outer[0] == pytest.approx(1.9, rel=0.1)


# -- it decodes as its formula says ----------------------------------------------------------


def slowly(path: Path, state: np.ndarray, row: int) -> np.ndarray:
    """The translator from the numbers in the file, in float64."""
    own = {name: value[row].astype(np.float64) for name, value in load_file(path).items()}
    inner = own["down"] @ (state.astype(np.float64) / own["scale_in"])
    return state + own["scale_out"] * (own["up"] @ inner + own["bias"])


def test_decode_applies_the_translator_then_the_readout(
    opened: Model, toy: library.LensInfo
) -> None:
    trace = analysis.trace(opened, "the capital of France is Paris")
    grid = analysis.decode(opened, trace, decoder="learned", k=4, target=9)
    case = type("Case", (), {"model": opened})
    unembedding = opened.hf.get_output_embeddings().weight.double().numpy()
    for row in range(3):
        for pos in (0, 3, len(trace.tokens) - 1):
            moved = slowly(toy.path, trace.resid[row, pos], row)
            logits = unembedding @ slow_norm(case, moved, "full")
            probs = softmax(logits)
            best = np.argsort(-logits, kind="stable")[:4]
            assert grid.token_ids[row, pos].tolist() == best.tolist()
            np.testing.assert_allclose(grid.probs[row, pos], probs[best], rtol=1e-4)
            assert grid.target_prob[row, pos] == pytest.approx(probs[9], rel=1e-4)
            final = softmax(trace.logits[pos].astype(np.float64))
            kl = (final * (np.log(final) - np.log(probs))).sum()
            assert grid.kl_to_final[row, pos] == pytest.approx(kl, abs=2e-4)
    assert grid.decoder == "learned"


def test_the_last_row_is_the_models_output(opened: Model, toy: library.LensInfo) -> None:
    trace = analysis.trace(opened, "one two the")
    one, other = (
        analysis.decode(opened, trace, decoder=name, rows=[-1, 1]) for name in ("learned", "output")
    )
    assert np.array_equal(one.token_ids[0], other.token_ids[0])
    np.testing.assert_allclose(one.probs[0], other.probs[0], rtol=1e-6)
    assert not np.allclose(one.probs[1], other.probs[1], rtol=1e-2)


@pytest.mark.parametrize("options", [{"similarity": "cosine"}, {"candidates": "subtraction"}])
def test_other_options_decode_the_translated_state(
    opened: Model, toy: library.LensInfo, options: dict[str, str]
) -> None:
    trace = analysis.trace(opened, "one two the")
    grid = analysis.decode(opened, trace, decoder="learned", rows=[1], k=3, **options)
    moved = np.stack([slowly(toy.path, state, 1) for state in trace.resid[1]])
    elsewhere = replace(trace, resid=np.stack([trace.resid[0], *[moved.astype(np.float32)] * 3]))
    wanted = analysis.decode(opened, elsewhere, rows=[1], k=3, **options)
    assert np.array_equal(grid.token_ids, wanted.token_ids)
    np.testing.assert_allclose(grid.scores, wanted.scores, rtol=1e-3)


@pytest.mark.parametrize("component", ["attention_output", "mid_residual", "mlp_output"])
def test_only_block_outputs_can_be_decoded(component: str) -> None:
    with pytest.raises(SpecError, match="fitted to block outputs"):
        LensSpec(component=component, decoder="learned")  # type: ignore[arg-type]


# -- an interrupted training ------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
import analysis
from analysis.contract import jobs
from analysis.lens_training.training import run
from tests.support import toy_lens

def kill(done, total, label):
    if label == "Fitting the lens" and done == 13:
        os.kill(os.getpid(), signal.SIGKILL)

model = analysis.load_model(sys.argv[1])
with jobs.listening(kill):
    run(toy_lens.session(model, Path(sys.argv[2])), resume=False, report=print)
"""


@pytest.mark.full
def test_a_killed_training_ends_with_the_same_lens(
    opened: Model, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "cut.safetensors"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tiny_llama_dir), str(out)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "STRATASCOPE_DATA_DIR": str(tmp_path / "elsewhere")},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not out.exists()
    said: list[str] = []
    resumed = run(session(opened, out), resume=True, report=said.append)
    whole = run(session(opened, tmp_path / "whole.safetensors"), resume=False, report=ignore)
    assert "Resuming at step 8" in said
    assert resumed.digest == whole.digest
    assert resumed.evaluations == whole.evaluations
    assert not session(opened, out).folder.exists()


def stop(wanted: str) -> jobs.Listener:
    def listen(done: int, total: int, label: str) -> None:
        if label.startswith(wanted):
            raise CancelledError

    return listen


@pytest.mark.parametrize("where", ["Generating training", "States", "Fitting", "Evaluating"])
def test_training_can_stop_and_resume_at_any_step(
    opened: Model, tmp_path: Path, where: str
) -> None:
    work = session(opened, tmp_path / "lens.safetensors")
    where = where.replace("training", "train ")
    with pytest.raises(CancelledError), jobs.listening(stop(where)):
        run(work, resume=False, report=ignore)
    with pytest.raises(SpecError, match="unfinished"):
        run(work, resume=False, report=ignore)
    with pytest.raises(SpecError, match="other options"):
        run(replace(work, spec=replace(SHORT, seed=4)), resume=True, report=ignore)
    assert run(work, resume=True, report=ignore).steps == 24


def test_rows_take_turns_and_batches_depend_on_the_step_alone() -> None:
    drawn = [row for step in range(30) for row in rows_of(SHORT, step, 3)]
    assert max(np.bincount(drawn)) - min(np.bincount(drawn)) <= 4  # a row met twice counts once
    assert rows_of(SHORT, 7, 3) == rows_of(SHORT, 7, 3)
    one, again, other = (tokens_of(SHORT, step, 300) for step in (5, 5, 6))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert len(set(one.tolist())) == 16
    rates = [rate_at(SHORT, step) for step in range(SHORT.steps)]
    assert max(rates) == SHORT.rate
    assert rates[1:] == sorted(rates[1:], reverse=True)


# -- which lens belongs to which model -----------------------------------------------------


def test_a_lens_belongs_to_its_weights_in_any_dtype(
    opened: Model, toy: library.LensInfo, tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRATASCOPE_MODELS", f"toy={tiny_llama_dir}")
    assert library.available("toy") == toy
    assert toy.rank == 6
    assert opened.info.fingerprint in toy.fingerprints
    monkeypatch.setenv("STRATASCOPE_DTYPE", "bfloat16")
    assert library.available("toy") == toy
    assert library.available("addition-5digit") != toy
    assert library.available("no such model") is None


def test_another_model_is_refused(
    gpt2: object, llama: object, opened: Model, toy: library.LensInfo
) -> None:
    trace = llama.trace  # type: ignore[attr-defined]
    with pytest.raises(SpecError, match="no learned lens for llama"):
        analysis.decode(llama.model, trace, decoder="learned")  # type: ignore[attr-defined]
    with pytest.raises(SpecError, match="other weights"):
        translators.require(toy, llama.model.info)  # type: ignore[attr-defined]
    for name in ("layers", "d_model", "vocab"):
        with pytest.raises(SpecError, match=f"with {name} "):
            translators.require(replace(toy, **{name: 7}), opened.info)


def test_a_new_lens_makes_a_new_memo_key(
    opened: Model, toy: library.LensInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, asked = opened.info.fingerprint, LensSpec(decoder="learned")
    assert library.key_part(name, (asked,)) == toy.digest
    assert library.key_part(name, (ColourSpec(asked),)) == toy.digest
    assert library.key_part(name, (DisagreementSpec(("output", "learned")),)) == toy.digest
    assert library.key_part(name, (LensSpec(),)) == ""
    assert library.key_part("another", (asked,)) == "none"
    service = Service(ServiceSettings(memo=False), lambda model, dtype: name)
    trace = TraceSpec("toy", (1, 2))
    before = [service._key("toy", (trace, spec)) for spec in (asked, LensSpec())]
    monkeypatch.setenv("STRATASCOPE_DATA_DIR", str(tmp_path))
    assert library.key_part(name, (asked,)) == "none"
    info = run(
        session(opened, library.own_folder() / "other.safetensors"), resume=False, report=ignore
    )
    assert library.key_part(name, (asked,)) == info.digest != toy.digest
    after = [service._key("toy", (trace, spec)) for spec in (asked, LensSpec())]
    assert before[0] != after[0]
    assert before[1] == after[1]


def test_files_that_are_no_lens_are_ignored_or_refused(
    toy: library.LensInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRATASCOPE_DATA_DIR", str(tmp_path))
    library.own_folder().mkdir()
    data = toy.path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    document = json.loads(header["__metadata__"]["lens"])
    header["__metadata__"]["lens"] = json.dumps({**document, "format": 0})
    old = json.dumps(header).encode()
    broken = {
        "cut": data[:100],
        "empty": b"",
        "old": struct.pack("<Q", len(old)) + old + data[8 + length :],
        "long": struct.pack("<Q", 1 << 40) + data[8:],
        "deep": struct.pack("<Q", 1 << 19) + b"[" * (1 << 19),
    }
    for name, content in broken.items():
        path = library.own_folder() / f"{name}.safetensors"
        path.write_bytes(content)
        with pytest.raises(StoreError):
            library.describe(path)
    assert all(info.shipped for info in library.lenses())


# -- the commands --------------------------------------------------------------------------


def test_the_commands_train_list_and_evaluate(
    tiny_llama_dir: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--rank", "2", "--tokens", "200", "--steps", "3", "--batch", "8", "--judged", "60"]
    assert run_command(add_to, "lens", "train", str(tiny_llama_dir), *options) == 0
    said = capsys.readouterr().out
    assert "step      3 of 3" in said
    assert "60 tokens: the learned lens has the smaller KL at" in said
    name = f"{tiny_llama_dir.name}-rank2"
    assert (data_dir / "lenses" / f"{name}.safetensors").is_file()
    assert run_command(add_to, "lens", "list") == 0
    listed = capsys.readouterr().out
    assert name in listed
    assert f"stratascope lens train {tiny_llama_dir.name} --rank 2 --tokens 200" in listed
    assert run_command(add_to, "lens", "evaluate", str(tiny_llama_dir), name, "--tokens", "60") == 0
    assert capsys.readouterr().out.strip() in said


def test_a_missing_lens_is_reported(tiny_llama_dir: Path, data_dir: Path) -> None:
    with pytest.raises(SpecError, match="no lens 'nothing'"):
        run_command(add_to, "lens", "evaluate", str(tiny_llama_dir), "nothing")
