"""The README's table of architectures: each one built small and random, measured, written down.

    python -m benchmarks.architectures            # print it
    python -m benchmarks.architectures --write    # into README.md, between its markers

Run it from the root of a checkout: the models are the tests' own.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from analysis.errors import AnalysisError
from analysis.ledger import check
from analysis.model.handle import Model

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- architectures: begin -->", "<!-- architectures: end -->"
HEAD = "| Architecture | Attention captured by | Blocks | Norm | Tied | Largest error | Verdict |"

#: What the machine of the last run could not try, and how far its code path is tested.
NOT_EXERCISED = {
    "8- and 4-bit weights on a GPU": (
        lambda: not torch.cuda.is_available(),
        "run by bitsandbytes on the CPU; sums of heads hold to 5e-2, all else to 2e-2",
    ),
    "a CUDA device": (
        lambda: not torch.cuda.is_available(),
        "the same code with device cpu",
    ),
    "blocks on several cards (`spread`)": (
        lambda: torch.cuda.device_count() < 2,
        "accelerate's hooks on every module of a model on the CPU; what is asked of accelerate",
    ),
    "MPS": (
        lambda: not torch.backends.mps.is_available(),
        "refused, with the reason: it has no 64-bit floats, in which identities are computed",
    ),
}


def row(kind: str) -> str:
    """One line of the table."""
    from tests.support import built, zoo

    try:
        model = built.understood(zoo.make(kind), kind)
    except AnalysisError as error:
        return f"| {kind} | | | | | | refused: {error.message.replace('|', '/')} |"
    ledger = check(model)
    failed = [entry for entry in ledger.entries if not entry.passed]
    verdict = "; ".join(f"fails: {entry.name}" for entry in failed) or "every identity holds"
    notes = "; ".join(dict.fromkeys(entry.note for entry in ledger.entries if entry.note))
    shown = f"{verdict} ({notes})" if notes else verdict
    facts = _facts(model)
    return f"| {kind} | {' | '.join(facts)} | {ledger.largest_error:.0e} | {shown} |"


def _facts(model: Model) -> tuple[str, ...]:
    info = model.info
    return (
        info.attention_interface,
        "parallel" if info.parallel_blocks else "sequential",
        info.norm,
        "yes" if info.tied_embeddings else "no",
    )


def section() -> str:
    """Both tables, as they stand between the markers."""
    from tests.support import zoo

    lines = [BEGIN, "", HEAD, "| --- | --- | --- | --- | --- | --- | --- |"]
    for kind in sorted(zoo.CONFIGS):
        lines.append(row(kind))
        print(lines[-1], file=sys.stderr, flush=True)
    lines += ["", "| Not exercised on the machine that made this table | Tested as far as |"]
    lines += ["| --- | --- |"]
    lines += [f"| {what} | {far} |" for what, (absent, far) in NOT_EXERCISED.items() if absent()]
    return "\n".join([*lines, "", END])


def write(text: str) -> None:
    """Put the tables between the README's markers."""
    old = README.read_text(encoding="utf-8")
    before, _, rest = old.partition(BEGIN)
    after = rest.partition(END)[2]
    if not after:
        raise SystemExit(f"{README} holds no {BEGIN} and {END}.")
    README.write_text(f"{before}{text}{after}", encoding="utf-8")


def main() -> None:
    """Make the tables."""
    text = section()
    if "--write" in sys.argv[1:]:
        write(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
