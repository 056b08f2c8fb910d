"""Build one small random model of each architecture, check its identities, and make a table.

    python -m benchmarks.architectures            # print it
    python -m benchmarks.architectures --write    # write it into README.md, between the markers

With ``--every``, build every causal class of the installed transformers instead, and compare the
traced logits of prompts of 5 and 200 tokens with those of the untouched model; ``--write`` then
writes docs/architectures.md.

Run it from the root of a checkout: the tests define the models.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch

from analysis.errors import AnalysisError
from analysis.ledger import check
from analysis.model.handle import Model

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
EVERY = ROOT / "docs" / "architectures.md"
EVERY_INTRODUCTION = """# Every causal language model of transformers

`python -m benchmarks.architectures --every --write` builds a small random model of each model type
for which transformers {version} has a causal language model class, and writes this table. Sliding
windows, attention chunks and sparse indices are set to 8. Each model is loaded as Stratascope loads
any model, every identity is checked, and the logits of traced prompts of 5 and 200 tokens are
compared with those of the untouched model. The largest error that is allowed is 1e-4, relative.

- *passes*: every identity holds, and the logits are equal.
- *partial*: the model loads and its logits are equal; the reason says what is missing.
- *refused*: Stratascope does not load the model; the reason is its message.
- *not buildable*: transformers itself does not build or run the small model.
- *wrong* and *raw error*: faults of Stratascope.

"""
BEGIN, END = "<!-- architectures: begin -->", "<!-- architectures: end -->"
HEAD = "| Architecture | Attention captured by | Blocks | Norm | Tied | Largest error | Verdict |"

#: Hardware that a machine may lack, how to detect that, and how the code is tested without it.
HARDWARE: dict[str, tuple[Callable[[], bool], str]] = {
    "8- and 4-bit weights on a GPU": (
        lambda: not torch.cuda.is_available(),
        "bitsandbytes on the CPU; tolerance 5e-2 for sums of heads, 2e-2 for all else",
    ),
    "a CUDA device": (
        lambda: not torch.cuda.is_available(),
        "the same code on the CPU",
    ),
    "blocks on several cards (`spread`)": (
        lambda: torch.cuda.device_count() < 2,
        "accelerate's hooks on every module of a model on the CPU; the calls of accelerate",
    ),
    "MPS": (
        lambda: not torch.backends.mps.is_available(),
        "refused with the reason: MPS has no 64-bit floats, which the identities need",
    ),
}


def row(kind: str) -> str:
    """Return the table's line for one architecture."""
    from tests.support import built, zoo

    try:
        model = built.understood(zoo.make(kind), kind)
    except AnalysisError as error:
        return f"| {kind} | | | | | | refused: {error.message.replace('|', '/')} |"
    ledger = check(model)
    failed = [entry for entry in ledger.entries if not entry.passed]
    verdict = "; ".join(f"fails: {entry.name}" for entry in failed) or "every identity holds"
    notes = "; ".join(dict.fromkeys(entry.note for entry in ledger.entries if entry.note))
    verdict += f" ({notes})" if notes else ""
    return f"| {kind} | {' | '.join(_facts(model))} | {ledger.largest_error:.0e} | {verdict} |"


def _facts(model: Model) -> tuple[str, ...]:
    info = model.info
    return (
        info.attention_interface,
        "parallel" if info.parallel_blocks else "sequential",
        info.norm,
        "yes" if info.tied_embeddings else "no",
    )


def section() -> str:
    """Return both tables with their markers."""
    from tests.support import zoo

    lines = [BEGIN, "", HEAD, "| --- | --- | --- | --- | --- | --- | --- |"]
    for kind in sorted(zoo.CONFIGS):
        lines.append(row(kind))
        print(lines[-1], file=sys.stderr, flush=True)
    lines += ["", "| Not tested on the machine that made this table | Tested instead |"]
    lines += ["| --- | --- |"]
    lines += [f"| {name} | {instead} |" for name, (absent, instead) in HARDWARE.items() if absent()]
    return "\n".join([*lines, "", END])


def write(text: str) -> None:
    """Replace the text between the README's markers."""
    old = README.read_text(encoding="utf-8")
    before, _, rest = old.partition(BEGIN)
    after = rest.partition(END)[2]
    if not after:
        raise SystemExit(f"{README} has no {BEGIN} and {END}.")
    README.write_text(f"{before}{text}{after}", encoding="utf-8")


def every() -> str:
    """Return the page on every causal class of transformers."""
    import transformers

    from tests.support import every_architecture, sweep

    verdicts = []
    for found in sweep.sweep(every_architecture.kinds()):
        verdicts.append(found)
        print(found.kind, found.verdict, found.reason, file=sys.stderr, flush=True)
    introduction = EVERY_INTRODUCTION.format(version=transformers.__version__)
    return f"{introduction}{sweep.table(verdicts)}\n"


def main() -> None:
    """Print the tables, or write them into the README or docs/architectures.md."""
    if "--every" in sys.argv[1:]:
        page = every()
        if "--write" in sys.argv[1:]:
            EVERY.write_text(page, encoding="utf-8")
        else:
            print(page)
        return
    text = section()
    if "--write" in sys.argv[1:]:
        write(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
