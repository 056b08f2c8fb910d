"""The comparison with peers: our own side on a small model, the comparison, and the table.

The peers are no dependency. Here a second library is our own side again, or a wrong one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import analysis
from benchmarks import _peer_work, peers
from benchmarks._peer_libraries import PEERS
from benchmarks._peer_work import Stratascope, Task, Work
from tests.support import tiny


@pytest.fixture(scope="module")
def task(tiny_llama_dir: Path) -> Task:
    clean, corrupted = [5, 40, 7, 80, 9, 11], [5, 41, 7, 80, 9, 11]
    return Task(str(tiny_llama_dir), [3, 50, 70, 20, 9], clean, corrupted, 12, 13, (1, 2), 4)


@pytest.fixture(scope="module")
def ours(task: Task) -> dict[str, Any]:
    """Work -> the arrays that are compared."""
    works = Stratascope(task).works()
    return {name: work.values(peers.timed(work)[1]) for name, work in works.items()}


def states_of(task: Task, ids: list[int]) -> tuple[Any, torch.Tensor]:
    """A plain model, and its residual rows [row, pos, d_model] by a hook on each block."""
    hf = tiny.tiny_llama().eval()
    rows = [hf.model.embed_tokens(torch.tensor([ids]))]
    handles = [
        block.register_forward_hook(lambda *given: rows.append(given[2]))
        for block in hf.model.layers
    ]
    with torch.no_grad():
        hf(torch.tensor([ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    return hf, torch.stack([row.detach()[0] for row in rows])


def test_it_has_every_work(ours: dict[str, Any]) -> None:
    assert list(ours) == [
        "capture", "lens grid", "patching sweep", "attribution patching", "direct attribution",
        "generation with capture",
    ]  # fmt: skip


def test_the_arrays_are_those_of_a_plain_model(task: Task, ours: dict[str, Any]) -> None:
    """Independent of the product: hooks on the blocks, the norm and the head of the model."""
    hf, rows = states_of(task, task.ids)
    assert np.allclose(ours["capture"]["states"], rows.numpy(), atol=1e-5)
    with torch.no_grad():
        logits = hf.lm_head(hf.model.norm(rows))
    probs, ids = _peer_work.best(logits)
    assert np.allclose(ours["capture"]["logits"], logits[-1].numpy(), atol=1e-5)
    assert np.allclose(ours["lens grid"]["probabilities"], probs.numpy(), atol=1e-6)
    assert np.array_equal(ours["lens grid"]["tokens"], ids.numpy())


def test_a_swept_cell_and_its_estimate_have_the_metric_of_a_patched_run(
    task: Task, ours: dict[str, Any]
) -> None:
    _, right = states_of(task, task.clean)
    hf, wrong = states_of(task, task.corrupted)
    row, pos = 1, 1

    def metric(change: torch.Tensor) -> torch.Tensor:
        def patched(_module: Any, _given: Any, states: torch.Tensor) -> torch.Tensor:
            return torch.cat([states[:, :pos], (states[0, pos] + change)[None, None],
                              states[:, pos + 1 :]], 1)  # fmt: skip

        handle = hf.model.layers[row - 1].register_forward_hook(patched)
        try:
            return task.metric(hf(torch.tensor([task.corrupted]), use_cache=False).logits)[0]
        finally:
            handle.remove()

    change = right[row, pos] - wrong[row, pos]
    assert float(change.norm()) > 0
    found = ours["patching sweep"]["metric"]
    assert found.shape == (2, len(task.clean))
    with torch.no_grad():
        assert found[row - task.rows[0], pos] == pytest.approx(float(metric(change)), abs=1e-5)
    slope = torch.autograd.functional.jacobian(metric, torch.zeros_like(change))
    estimate = ours["attribution patching"]["effect"]
    assert estimate[row, pos] == pytest.approx(float(slope @ change), abs=1e-5)


def test_direct_attribution_sums_to_the_lead(task: Task, ours: dict[str, Any]) -> None:
    model = analysis.load_model(task.folder)
    trace = analysis.trace(model, task.clean)
    whole = analysis.attribute(model, trace, -1, task.answer, task.foil)
    rest = whole.embedding + whole.attention_bias.sum() + whole.bias
    parts = ours["direct attribution"]["logits"]
    assert parts.size == model.info.layers * (model.info.heads + 1)
    lead = float(trace.logits[-1, task.answer] - trace.logits[-1, task.foil])
    assert parts.sum() + rest == pytest.approx(lead, abs=1e-4)


def test_generation_leaves_out_the_last_token(task: Task, ours: dict[str, Any]) -> None:
    found = ours["generation with capture"]
    assert found["tokens"][: len(task.clean)].tolist() == task.clean
    assert found["states"].shape[1] == len(found["tokens"]) - 1 >= len(task.clean)


@pytest.mark.parametrize("row", ["patching sweep", "attribution patching"])
def test_equal_numbers_agree_and_changed_ones_do_not(ours: dict[str, Any], row: str) -> None:
    def line(theirs: dict[str, Any]) -> peers.Line:
        return peers.Line(row, "x", (1.0,), (2.0,), (0, 0), *peers.compared(ours[row], theirs))

    (name,) = ours[row]
    assert line(ours[row]).agrees
    changed = ours[row][name].copy()
    changed[0, 1] += 0.01 * np.abs(changed).max()
    assert not line({name: changed}).agrees
    changed[0, 1] = np.nan
    assert not line({name: changed}).agrees
    with pytest.raises(ValueError, match="here"):
        line({name: changed[1:]})
    with pytest.raises(ValueError, match="no numbers"):
        line({"another": changed})


def test_other_tokens_do_not_agree(ours: dict[str, Any]) -> None:
    found = ours["lens grid"]
    other = found | {"tokens": found["tokens"][::-1]}
    line = peers.Line("lens grid", "x", (1.0,), (2.0,), (0, 0), *peers.compared(found, other))
    assert line.tokens[0] > 0
    assert line.tokens[1] == found["tokens"].size
    assert not line.agrees


def test_the_work_takes_turns_and_only_its_own_time_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = [0.0], []
    monkeypatch.setattr(peers.time, "process_time", lambda: clock[0])

    def work(name: str, seconds: float) -> Work:
        def run(given: str) -> str:
            assert given == "prepared"
            calls.append(name)
            clock[0] += seconds
            return name

        def prepare() -> str:
            clock[0] += 100.0
            return "prepared"

        return Work(run, lambda _: {"states": np.ones(3)}, prepare)

    (line,) = peers.measured("capture", {"ours": work("a", 1.0), "peer": work("b", 3.0)}, 2)
    assert calls == ["a", "b"] * 3
    assert line.ratios == [3.0, 3.0]
    assert line.agrees


LINE = peers.Line(
    "capture", "nnsight", (1.0, 2.0, 1.0), (1.5, 2.0, 0.9), (10**9, 2 * 10**9), 0.5, 100.0, (1, 69)
)


def test_the_table_names_ratio_memory_and_difference() -> None:
    printed = peers.table([LINE, replace(LINE, difference=0.0, tokens=(0, 0))]).splitlines()
    assert printed[2] == (
        "| capture | nnsight | 1.000 | 1.500 | 1.00 (0.90) | 1.00 | 2.00 | 5e-01 of 1e+02"
        " **differs** | 1 of 69 |"
    )
    assert printed[3].endswith("| 0e+00 of 1e+02 | - |")


def test_it_says_where_a_peer_is_ahead() -> None:
    slow = replace(LINE, row="lens grid", theirs=(0.5, 0.5, 0.5), memory=(5, 4))
    assert peers.verdict([LINE, slow]) == (
        "A peer is faster: lens grid (nnsight).\nA peer needs less memory: lens grid (nnsight)."
    )
    assert peers.verdict([LINE]).startswith("A peer is faster: nowhere.")


def test_the_whole_runs_with_a_second_library(
    task: Task, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PEERS, "double", ("numpy", Stratascope))
    monkeypatch.setattr(peers, "task_of", lambda *_: task)
    monkeypatch.setattr(peers, "peak_of", lambda *_: 7)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    assert peers.main(["--peers", "double", "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("| double |") == 6
    assert "0e+00 of" in printed
    assert "double 2" in printed  # the version


def test_memory_is_that_of_the_work(
    task: Task, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    size, held = 300 << 20, []

    class Large(Stratascope):
        def works(self) -> dict[str, Work]:
            return {"capture": Work(lambda _: held or held.append(np.ones(size, np.uint8)), dict)}

    monkeypatch.setitem(PEERS, "large", ("numpy", Large))
    text = json.dumps(asdict(task))
    own, large = 0, 0
    for name in (peers.OURS, "large"):
        assert peers.main(["--peak", name, "capture", text]) == 0
        own, large = large, int(capsys.readouterr().out.splitlines()[-1])
    assert own + 0.7 * size < large < own + 1.5 * size


def test_without_peers_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda _: None)
    assert peers.main([]) == 0
    assert capsys.readouterr().out == "No peer is installed here: use make bench-peers.\n"
