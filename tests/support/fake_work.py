"""Fake work for the model worker. The prompt's text says what to do.

``RunSpec.text`` is "verb argument": "echo x", "steps n" (n steps that each wait for nothing),
"hold PATH" (step until the file PATH exists), "long PATH" (the same, with pauses),
"look PATH" (without steps, looking for a cancel), "stuck PATH" (not even that), "crash" (SIGKILL
itself), "crash-once PATH", "half PATH" (send half of an answer and stop the
process, unless PATH exists), "panic" (as Rust code does), "bug", "prompt" (a PromptError).
Every computation appends a line to the file named by FAKE_WORK_LOG.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from analysis import codec
from analysis.contract import jobs
from analysis.contract.specs import ModelInfo, Token
from analysis.errors import PromptError
from analysis.tracing.specs import RunResult, RunSpec
from analysis.worker.messages import Answer, Limits, Request


def perform(request: Request, limits: Limits) -> Answer:
    spec = request.specs[0]
    if not isinstance(spec, RunSpec):
        spec = RunSpec("fake", "info")
    log(f"start {spec.text}")
    verb, _, argument = spec.text.partition(" ")
    VERBS.get(verb, echo)(argument)
    log(f"end {spec.text}")
    return Answer(codec.encode(result(spec.text)), request.fingerprint, 1)


def changed(request: Request, limits: Limits) -> Answer:
    """The same, with weights that changed after the request."""
    answer = perform(request, limits)
    return Answer(answer.data, "other weights", answer.forwards)


def log(line: str) -> None:
    if name := os.environ.get("FAKE_WORK_LOG"):
        with Path(name).open("a") as file:
            file.write(f"{line}\n")


def echo(_: str) -> None:
    jobs.step(1, 1, "echo")


def steps(count: str) -> None:
    for done in range(int(count)):
        jobs.step(done + 1, int(count), "steps")


def hold(path: str) -> None:
    until(path, lambda: jobs.step(0, 0, "holding"))


def long(path: str) -> None:
    def between() -> None:
        jobs.step(0, 0, "long")
        jobs.pause()

    until(path, between)


def look(path: str) -> None:
    until(path, jobs.check_cancelled)


def stuck(path: str) -> None:
    until(path, lambda: None)


def until(path: str, between: Callable[[], None]) -> None:
    while not Path(path).exists():
        between()
        time.sleep(0.01)


def crash(_: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crash_once(path: str) -> None:
    if not Path(path).exists():
        Path(path).touch()
        crash(path)


def half(path: str) -> None:
    if not Path(path).exists():
        Path(path).touch()
        os.write(int(sys.argv[1]), struct.pack("!i", 1000) + b"half")
        os.kill(os.getpid(), signal.SIGSTOP)


def panic(_: str) -> None:
    raise PanicError("a panic, on purpose")


class PanicError(BaseException):
    """What PyO3 raises for a panic is no Exception either."""


def bug(_: str) -> None:
    raise RuntimeError("a bug, on purpose")


def prompt(_: str) -> None:
    raise PromptError("The prompt has 9 tokens; this server reads at most 8.", "Shorten it.")


VERBS: dict[str, Callable[[str], None]] = {
    "echo": echo,
    "steps": steps,
    "hold": hold,
    "long": long,
    "look": look,
    "stuck": stuck,
    "crash": crash,
    "crash-once": crash_once,
    "half": half,
    "panic": panic,
    "bug": bug,
    "prompt": prompt,
}


def result(text: str) -> RunResult:
    """A run's result whose only token has the text ``text``."""
    info = ModelInfo(
        "fake", "Fake", 1, 1, 1, 2, 2, 3, 8, 9, True, False, "none", "float32", "cpu", "here", "1",
        "f",
    )  # fmt: skip
    one = np.zeros((1, 1), np.float32)
    return RunResult(
        info, (Token(1, text, text),), 1, one.astype(np.int64), one, one[0],
        np.zeros(1, np.int64), one[0], (Token(0, "a", "a"),),
    )  # fmt: skip
