"""Judge Stratascope on every causal class of transformers, one forked process each.

python -m tests.support.sweep verdicts.json    # all of them
python -m tests.support.sweep verdicts.json llama gpt2
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import transformers

import analysis
from analysis import ledger
from analysis.errors import AnalysisError
from analysis.model.handle import Model
from tests.support import built, edge_slopes, every_architecture

PROMPTS = (5, 200)
#: Largest relative error of the traced logits.
TOLERANCE = 1e-4
#: Largest relative error of an effect graph's estimates, against small parts of the cut itself.
SLOPE_TOLERANCE = 0.02
TIME_LIMIT = 120.0
#: Verdicts, best first. The last two are faults.
PASSES, PARTIAL, REFUSED, NOT_BUILDABLE, WRONG, RAW_ERROR = VERDICTS = (
    "passes",
    "partial",
    "refused",
    "not buildable",
    "wrong",
    "raw error",
)
FAULTS = (WRONG, RAW_ERROR)


@dataclass(frozen=True)
class Verdict:
    """How Stratascope does on one model type.

    Attributes:
        kind: The model type.
        verdict: One of ``VERDICTS``.
        reason: What is missing, or why; "" if the type passes.
        error: Largest relative error of the traced logits; None if there was no trace.
        seconds: Time taken.
    """

    kind: str
    verdict: str
    reason: str = ""
    error: float | None = None
    seconds: float = 0.0


class _RawError(Exception):
    """An exception that is not an AnalysisError left the library."""


def _described(error: BaseException) -> str:
    text = " ".join(str(error).split())[:300]
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {text} ({Path(place.filename).name}, line {place.lineno})"


def _raw(step: str, error: Exception) -> _RawError:
    return _RawError(f"{step} raises {_described(error)}")


def judge(kind: str) -> Verdict:
    """The verdict on one model type, in this process."""
    try:
        hf = every_architecture.make(kind)
        wanted = {
            size: every_architecture.logits(hf, every_architecture.prompt(size)) for size in PROMPTS
        }
    except Exception as error:  # noqa: BLE001 - whatever transformers raises
        return Verdict(kind, NOT_BUILDABLE, _described(error))
    try:
        return _judged(kind, hf, wanted)
    except _RawError as error:
        return Verdict(kind, RAW_ERROR, str(error))


def _judged(kind: str, hf: Any, wanted: dict[int, torch.Tensor]) -> Verdict:
    try:
        model = built.understood(hf, kind)
        ledger.require(model)
    except AnalysisError as error:
        return Verdict(kind, REFUSED, error.message)
    except Exception as error:
        raise _raw("loading", error) from error
    missing: list[str] = []
    try:
        measured = model.check()
        failed = [entry for entry in measured.entries if not entry.passed]
        missing += [f"fails '{entry.name}' ({entry.error:.0e}, {entry.note})" for entry in failed]
        missing += [entry.note for entry in measured.entries if _lacking(entry.note)]
    except AnalysisError as error:
        missing.append(f"check: {error.message}")
    except Exception as error:
        raise _raw("check()", error) from error
    errors = []
    for size, logits in wanted.items():
        try:
            found = analysis.trace(model, every_architecture.prompt(size)).logits
        except AnalysisError as error:
            missing.append(f"{size} tokens: {error.message}")
            continue
        except Exception as error:
            raise _raw(f"a trace of {size} tokens", error) from error
        errors.append(ledger.relative(found - logits.numpy(), logits.numpy()))
    largest = max(errors, default=None)
    if largest is not None and largest > TOLERANCE:
        return Verdict(kind, WRONG, f"traced logits are off by {largest:.1e} relative", largest)
    if wrong := _wrong_effects(model):
        return Verdict(kind, WRONG, wrong, largest)
    return Verdict(kind, PARTIAL if missing else PASSES, "; ".join(missing), largest)


def _wrong_effects(model: Model) -> str:
    """What is wrong with the model's effect graphs; "" if nothing is, or there are no heads."""
    if not (model.info.heads and model.info.split_heads):
        return ""
    try:
        estimates, cuts = edge_slopes.errors(model)
    except Exception as error:
        raise _raw("an effect graph", error) from error
    if cuts > TOLERANCE:
        return f"knocked-out edges do not act through the mixed values alone: off by {cuts:.1e}"
    if estimates > SLOPE_TOLERANCE:
        return f"estimated effects are off by {estimates:.1e} relative"
    return ""


def _lacking(note: str) -> bool:
    return "not measured" in note or "can't be split" in note or "no layer with" in note


def _child(kind: str, sender: Connection) -> None:
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    start = time.monotonic()
    found = judge(kind)
    sender.send({**asdict(found), "seconds": time.monotonic() - start})
    sender.close()


def sweep(kinds: Sequence[str], processes: int = 2) -> Iterator[Verdict]:
    """The verdicts on ``kinds``, as they come, from ``processes`` forked processes at a time."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    fork = multiprocessing.get_context("fork")
    waiting = list(reversed(kinds))
    running: dict[Connection, tuple[str, Any, float]] = {}
    while waiting or running:
        while waiting and len(running) < processes:
            kind = waiting.pop()
            receiver, sender = fork.Pipe(duplex=False)
            process = fork.Process(target=_child, args=(kind, sender))
            process.start()
            sender.close()
            running[receiver] = kind, process, time.monotonic() + TIME_LIMIT
        wait(list(running), timeout=1.0)
        for receiver, (kind, process, deadline) in list(running.items()):
            if receiver.poll():
                yield _received(kind, receiver, process)
            elif time.monotonic() > deadline:
                yield Verdict(kind, NOT_BUILDABLE, f"takes more than {TIME_LIMIT:.0f} s")
            else:
                continue
            process.kill()
            process.join()
            receiver.close()
            del running[receiver]


def _received(kind: str, receiver: Connection, process: Any) -> Verdict:
    try:
        return Verdict(**receiver.recv())
    except EOFError:
        process.join()
        return Verdict(kind, RAW_ERROR, f"the process ended with exit code {process.exitcode}")


def table(verdicts: Sequence[Verdict]) -> str:
    """A Markdown table of the verdicts, and how many there are of each."""
    counts = {name: sum(found.verdict == name for found in verdicts) for name in VERDICTS}
    lines = [
        f"Verdicts on {len(verdicts)} model types: "
        + "; ".join(f"{name} {count}" for name, count in counts.items() if count)
        + ".",
        "",
        "| Model type | Verdict | Largest error of the logits | Reason |",
        "| --- | --- | --- | --- |",
    ]
    for found in sorted(verdicts, key=lambda each: each.kind):
        error = "" if found.error is None else f"{found.error:.0e}"
        reason = found.reason.replace("|", "/")
        lines.append(f"| {found.kind} | {found.verdict} | {error} | {reason} |")
    return "\n".join(lines)


def main() -> None:
    """Write the verdicts on the types named, or on all, as JSON."""
    target, *kinds = sys.argv[1:]
    found = []
    for verdict in sweep(kinds or every_architecture.kinds()):
        found.append(asdict(verdict))
        print(verdict.kind, verdict.verdict, verdict.reason, file=sys.stderr, flush=True)
        Path(target).write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
