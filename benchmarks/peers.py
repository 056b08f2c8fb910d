"""Compare the same work in Stratascope and in each peer: time, memory and numbers.

    make bench-peers                                   # in an environment that has the peers
    python -m benchmarks.peers [MODEL] [--rounds N] [--rows NAME ...]

All libraries compute on one thread, in float32, on the same weights and prompts. In each round
every library does the work once, in turn, so that other load on the machine meets all of them. The
ratio is the peer's CPU seconds over ours: above 1, ours is faster. Memory is the peak of a process
of its own that does only this work, without the pages of mapped files. A peer that is not installed
is left out; it is no dependency.

It returns 1 if the numbers of a library differ from ours by more than rounding.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

import analysis
from analysis.model import default_model
from benchmarks import memory
from benchmarks._peer_libraries import PEERS
from benchmarks._peer_work import ESTIMATE, Stratascope, Task, Values, Work, Works

TEXT = (
    "The capital of France is Paris, and the capital of Italy is Rome. Seven small birds sat on the"
    " old wall while the two children counted them aloud in the garden behind the house. When the"
    " last of them had flown away, the older child wrote the number in a book and gave the book to"
    " her brother, who read it and said that"
)
CLEAN = "When Mary and John went to the store today, John gave a new book to"
CORRUPTED = "When Mary and John went to the store today, Mary gave a new book to"
ANSWER, FOIL = " Mary", " John"
OURS = "Stratascope"
ROUNDS = 5
#: Largest difference that rounding explains, over the largest value. A gradient multiplies it.
TOLERANCE = {ESTIMATE: 1e-3}
ROUNDING = 1e-4
#: Seconds for which a work is repeated while its memory is watched, twenty times a second.
WATCHED = 0.5


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        row: The work.
        peer: Who did it beside us.
        ours, theirs: [round] CPU seconds.
        memory: Peak bytes, ours and theirs.
        difference: Largest absolute difference of a number.
        largest: Largest absolute value of the array that it is in.
        tokens: How many of the chosen tokens differ, and of how many.
    """

    row: str
    peer: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    memory: tuple[int, int]
    difference: float
    largest: float
    tokens: tuple[int, int]

    @property
    def ratios(self) -> list[float]:
        """[round] the peer's seconds over ours."""
        return [other / own for own, other in zip(self.ours, self.theirs, strict=True)]

    @property
    def agrees(self) -> bool:
        """Whether rounding explains the differences; it may swap tokens that are nearly equal."""
        allowed = TOLERANCE.get(self.row, ROUNDING)
        return self.difference <= allowed * self.largest and self.tokens[0] <= allowed * max(
            self.tokens[1], 1
        )


def compared(ours: Values, theirs: Values) -> tuple[float, float, tuple[int, int]]:
    """The largest difference of the arrays that both have, its array's largest value, and tokens.

    Raises:
        ValueError: If an array has another shape, or none is in both.
    """
    worst, tokens = (0.0, 1.0), (0, 0)
    both = [name for name in ours if name in theirs]
    if not both:
        raise ValueError("There are no numbers to compare.")
    for name in both:
        one, other = ours[name], theirs[name]
        if one.shape != other.shape:
            raise ValueError(f"{name}: {one.shape} here, {other.shape} there")
        if one.dtype.kind == "i":
            tokens = (tokens[0] + int((one != other).sum()), tokens[1] + one.size)
            continue
        apart, largest = float(np.abs(one - other).max()), float(np.abs(one).max())
        if not apart / max(largest, 1e-30) <= worst[0] / worst[1]:  # a NaN counts as a difference
            worst = (apart, max(largest, 1e-30))
    return *worst, tokens


def timed(work: Work) -> tuple[float, Any]:
    """CPU seconds of the work without its preparation, and its result."""
    given = work.prepare()
    start = time.process_time()
    result = work.run(given)
    return time.process_time() - start, result


def measured(row: str, works: dict[str, Work], rounds: int) -> list[Line]:
    """The lines of one row, with no memory yet.

    Args:
        row: The work.
        works: Name -> work; ours is the first.
        rounds: How many count; one more is run before them.
    """
    spent: dict[str, list[float]] = {name: [] for name in works}
    values: dict[str, Values] = {}
    for number in range(rounds + 1):
        for name, work in works.items():
            seconds, result = timed(work)
            if number:
                spent[name].append(seconds)
            else:
                values[name] = work.values(result)
            del result
    ours, *others = works
    return [
        Line(
            row, peer, tuple(spent[ours]), tuple(spent[peer]), (0, 0),
            *compared(values[ours], values[peer]),
        )
        for peer in others
    ]  # fmt: skip


def peak_of(task: Task, library: str, row: str) -> int:
    """Peak bytes of a fresh process in which one library does one work."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.peers", "--peak", library, row]
    command.append(json.dumps(asdict(task)))
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return int(done.stdout.splitlines()[-1])


def peak(task: Task, library: str, row: str) -> int:
    """Peak bytes of this process while it does one work for half a second or more."""
    torch.set_num_threads(1)
    work = works_of(task, library)[row]

    def repeated() -> None:
        started = time.perf_counter()
        while time.perf_counter() < started + WATCHED:
            work.run(work.prepare())

    return memory.own_peak(repeated)


def works_of(task: Task, library: str) -> Works:
    """What a library can do of the task."""
    side: Any = (Stratascope if library == OURS else PEERS[library][1])(task)
    works: Works = side.works()
    return works


def task_of(name: str, new_tokens: int) -> Task:
    """The prompts, as token ids of a model."""
    known = name == "smollm2-135m-instruct"
    folder = str(default_model.ensure()) if known else name
    model = analysis.load_model(folder, device="cpu")
    texts = TEXT, CLEAN, CORRUPTED
    ids, clean, corrupted = (list(analysis.trace(model, text).token_ids) for text in texts)
    answer, foil = (
        int(model.tokenizer(text, add_special_tokens=False)["input_ids"][0])
        for text in (ANSWER, FOIL)
    )
    middle = model.info.layers // 2
    rows = (max(middle - 1, 1), max(middle + 1, 1))
    return Task(folder, ids, clean, corrupted, answer, foil, rows, new_tokens)


def table(lines: list[Line]) -> str:
    """The lines as a table in Markdown."""
    text = [
        "| Work | Peer | Ours, CPU s | Peer, CPU s | Ratio: median (least) | Ours, GB | Peer, GB "
        "| Largest difference | Tokens that differ |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for line in lines:
        verdict = "" if line.agrees else " **differs**"
        text.append(
            f"| {line.row} | {line.peer} | {np.median(line.ours):.3f} | "
            f"{np.median(line.theirs):.3f} | {np.median(line.ratios):.2f} "
            f"({min(line.ratios):.2f}) | {line.memory[0] / 1e9:.2f} | {line.memory[1] / 1e9:.2f} | "
            f"{line.difference:.0e} of {line.largest:.2g}{verdict} | "
            f"{f'{line.tokens[0]} of {line.tokens[1]}' if line.tokens[1] else '-'} |"
        )
    return "\n".join(text)


def verdict(lines: list[Line]) -> str:
    """On which lines a peer is ahead, by the median of the ratios or by memory."""
    slower = [f"{one.row} ({one.peer})" for one in lines if np.median(one.ratios) < 1]
    larger = [f"{one.row} ({one.peer})" for one in lines if one.memory[1] < one.memory[0]]
    return "\n".join(
        f"A peer {what}: {', '.join(found) or 'nowhere'}."
        for what, found in (("is faster", slower), ("needs less memory", larger))
    )


def run(task: Task, found: dict[str, Works], rows: list[str], rounds: int) -> list[Line]:
    """Measure all rows that a peer has, time first, then memory.

    Args:
        task: The work.
        found: Library -> its works; ours is the first.
        rows: The rows to measure.
        rounds: How many rounds count.
    """
    lines = []
    for row in rows:
        works = {name: known[row] for name, known in found.items() if row in known}
        lines += measured(row, works, rounds)
        ratios = {
            one.peer: round(float(np.median(one.ratios)), 2) for one in lines if one.row == row
        }
        print(f"{row}: {ratios}", file=sys.stderr, flush=True)
    peaks = {
        (name, row): peak_of(task, name, row)
        for row in dict.fromkeys(line.row for line in lines)
        for name in (OURS, *(line.peer for line in lines if line.row == row))
    }
    return [
        Line(**{**vars(line), "memory": (peaks[OURS, line.row], peaks[line.peer, line.row])})
        for line in lines
    ]


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return 1 if numbers differ, else 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--tokens", type=int, default=24, help="tokens to generate")
    parser.add_argument("--rows", nargs="*", help="the works to compare; all unless given")
    parser.add_argument("--peers", nargs="*", help="the peers; all that are installed unless given")
    parser.add_argument("--peak", nargs=3, metavar=("LIBRARY", "WORK", "TASK"))
    chosen = parser.parse_args(arguments)
    if chosen.peak:
        library, row, text = chosen.peak
        print(peak(Task(**json.loads(text)), library, row))
        return 0
    wanted = PEERS if chosen.peers is None else chosen.peers
    installed = [name for name in wanted if find_spec(PEERS[name][0])]
    if not installed:
        print("No peer is installed here: use make bench-peers.")
        return 0
    torch.set_num_threads(1)
    task = task_of(chosen.model, chosen.tokens)
    found = {name: works_of(task, name) for name in (OURS, *installed)}
    lines = run(task, found, chosen.rows or list(found[OURS]), chosen.rounds)
    versions = ", ".join(f"{name} {version(PEERS[name][0])}" for name in installed)
    print(
        f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, CPU, one thread, float32; {versions}"
    )
    print(f"{len(task.ids)} tokens; pair of {len(task.clean)}; {task.new_tokens} generated")
    print(table(lines))
    print(verdict(lines))
    return 0 if all(line.agrees for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
