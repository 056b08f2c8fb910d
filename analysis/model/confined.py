"""A process with limits of memory and time, in which a stranger's files are read first.

One such process stays for all requests of its parent. It runs named functions of this package, one
at a time, and answers in JSON. If a function goes beyond its limits, the process ends and the
request is refused with the figure; the next request starts another process. The file of a stranger
can therefore end this process, but not its parent.
"""

from __future__ import annotations

import atexit
import importlib
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from analysis.contract import jobs
from analysis.errors import AnalysisError, ModelLoadError, rebuild

#: Bytes of memory of the process; Linux applies this limit.
MEMORY = 4 << 30
#: Seconds that a request may take in all, if the process is stopped or waits for a disk.
PATIENCE_S = 600.0
#: Seconds between two looks for a cancel.
_LOOK_S = 0.2
#: Largest request and answer, in bytes.
_MOST_BYTES = 256 << 20

_HINT = "Choose another model, or correct the file if you trust it."


def run(function: str, *arguments: Any, what: str, cpu_s: float, memory: int = 0) -> Any:
    """Run a function in the confined process.

    Args:
        function: ``package.module:function``.
        arguments: JSON values.
        what: The subject of the error's sentence.
        cpu_s: Most seconds of processor time.
        memory: Most bytes of memory; 0 means ``MEMORY``.

    Returns:
        What it returns, as JSON values.

    Raises:
        ModelLoadError: If it goes beyond a limit, or fails. An ``AnalysisError`` of the function is
            raised as it is.
        CancelledError: If the request was cancelled.
    """
    request = [function, arguments, cpu_s, memory or MEMORY]
    while True:
        fresh, answer = _kept.ask(json.dumps(request).encode())
        if fresh or not answer.get("memory"):  # else earlier requests may have used the memory
            break
    return _result(answer, what, cpu_s, memory or MEMORY)


def _result(answer: dict[str, Any], what: str, cpu_s: float, memory: int) -> Any:
    if "error" in answer:
        raise rebuild(*answer["error"])
    if "failed" in answer:
        raise ModelLoadError(f"{what} fails: {answer['failed']}", _HINT)
    if answer.get("signal") == getattr(signal, "SIGXCPU", None):
        limit = f"{cpu_s:g} second{'' if cpu_s == 1 else 's'}"
        raise ModelLoadError(f"{what} takes longer than {limit} of processor time.", _HINT)
    if "signal" in answer or "memory" in answer:
        nests = "" if answer.get("memory") is True else ", or nests too deeply"
        raise ModelLoadError(
            f"{what} needs more than {memory >> 20:,} MiB of memory{nests}.", _HINT
        )
    if "late" in answer:
        raise ModelLoadError(f"{what} gives no answer within {PATIENCE_S:g} seconds.", _HINT)
    return answer["result"]


class _Kept:
    """The confined process of this process. It is started when it is needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def ask(self, request: bytes) -> tuple[bool, dict[str, Any]]:
        """Send a request. Returns whether the process was new, and the answer."""
        with self._lock:
            fresh = self._process is None or self._process.poll() is not None
            if fresh:
                self._start()
            pipe = self._pipe
            assert pipe is not None  # noqa: S101 - started above
            try:
                pipe.send_bytes(request)
                answer = _wait(pipe)
            except (EOFError, OSError):
                answer = {"signal": self._end(), "memory": "perhaps"}
            except BaseException:  # cancelled: it still works on this request
                self._end(kill=True)
                raise
            if "result" not in answer and "error" not in answer and "signal" not in answer:
                self._end(kill=True)  # its memory may be in any state
            return fresh, answer

    def _start(self) -> None:
        self._end(kill=True)
        self._pipe, theirs = multiprocessing.Pipe()
        search = [path or os.getcwd() for path in sys.path]  # noqa: PTH109 - a plain string
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", "analysis.model.confined", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(search),
                    "TOKENIZERS_PARALLELISM": "false",
                    "OMP_NUM_THREADS": "1",
                },
            )
        finally:
            theirs.close()

    def _end(self, *, kill: bool = False) -> int:
        """End the process. Returns the number of the signal that ended it, or 0."""
        process, pipe = self._process, self._pipe
        self._process = self._pipe = None
        if pipe is not None:
            pipe.close()
        if process is None:
            return 0
        if kill:
            process.kill()
        try:
            return max(-process.wait(_LOOK_S * 50), 0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return 0

    def close(self) -> None:
        """End the process, if there is one."""
        with self._lock:
            self._end(kill=True)


_kept = _Kept()
atexit.register(_kept.close)


def _wait(pipe: Connection) -> dict[str, Any]:
    end = time.monotonic() + PATIENCE_S
    while not pipe.poll(_LOOK_S):
        jobs.check_cancelled()
        if time.monotonic() > end:
            return {"late": True}
    answer: dict[str, Any] = json.loads(pipe.recv_bytes(_MOST_BYTES))
    return answer


# In the confined process.


def main(descriptor: int) -> None:
    """Answer requests on the inherited end of a pipe until the other end closes."""
    pipe = Connection(descriptor)
    for stop in (signal.SIGINT, signal.SIGTERM):  # it ends when its parent does
        signal.signal(stop, signal.SIG_IGN)
    with suppress(EOFError, OSError):
        while True:
            pipe.send_bytes(json.dumps(_answer(json.loads(pipe.recv_bytes()))).encode())


def _answer(request: list[Any]) -> dict[str, Any]:
    name, arguments, cpu_s, memory = request
    try:
        _limit(cpu_s, memory)
        module, _, function = name.partition(":")
        return {"result": getattr(importlib.import_module(module), function)(*arguments)}
    except AnalysisError as error:
        return {"error": [type(error).__name__, error.message, error.hint]}
    except MemoryError:
        return {"memory": True}
    except BaseException as error:  # noqa: BLE001 - a panic of Rust code is one
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return {"failed": line[:300]}


def _limit(cpu_s: float, memory: int) -> None:
    """Bound the memory of this process, and its processor time from now on."""
    try:
        import resource
    except ImportError:  # Windows
        return
    spent = resource.getrusage(resource.RUSAGE_SELF)
    seconds = math.ceil(spent.ru_utime + spent.ru_stime + cpu_s)
    for limit, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_DATA, memory),
    ):
        hard = resource.getrlimit(limit)[1]
        with suppress(OSError, ValueError):
            resource.setrlimit(limit, (most if hard < 0 else min(most, hard), hard))


if __name__ == "__main__":
    main(int(sys.argv[1]))
