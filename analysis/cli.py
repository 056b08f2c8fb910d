"""The commands ``stratascope check`` and ``stratascope models``.

Importable without torch; a command imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from analysis.contract.ledger import Ledger, LedgerSpec
from analysis.contract.specs import ModelInfo, Token
from analysis.errors import AnalysisError, SpecError
from analysis.model import catalog
from analysis.tracing.interventions import PATTERN_DTYPES

Command = Callable[[argparse.Namespace], int]


def add_to(commands: Any) -> None:
    """Add both to a parser's subcommands; each sets ``work``, which returns the exit status."""
    checking = commands.add_parser(
        "check", help="load a model and show which identities hold on it, and how closely"
    )
    checking.add_argument("model", help="a name, hub id, folder, .gguf file, or base+adapter")
    checking.add_argument(
        "--prompt", help="measure the run of this prompt, instead of two probes of random tokens"
    )
    checking.add_argument(
        "--position", type=int,
        help="the position of the prompt whose attribution and flow are checked; the last unless"
        " given",
    )  # fmt: skip
    checking.add_argument("--dtype", help="float32, bfloat16 or float16")
    checking.add_argument("--device", help="cpu, cuda, cuda:N, or spread")
    add_trace_options(checking)
    checking.set_defaults(work=check)
    listing = commands.add_parser("models", help="list the models on offer and whether they fit")
    listing.set_defaults(work=models)
    for command in (checking, listing):
        command.add_argument("--json", action="store_true", help="print JSON instead of a table")


def add_trace_options(command: argparse.ArgumentParser) -> None:
    """Add the options of ``trace``: edits, and those that reduce its memory."""
    command.add_argument(
        "--edit", action="append", default=[], metavar="EDIT",
        help="change the forward pass; may be given several times. Examples:"
        " ablate:head_output:24:3:all:zero, cut:24:3:4:0, 'inject:12:4: London:replace',"
        " 'patch:12:4:The capital of England is:-1', 'steer:12:4: London: Paris:1.5',"
        " ablate:neuron:24:1027:all:zero; hold keeps the attention patterns of the run without"
        " edits",
    )  # fmt: skip
    command.add_argument(
        "--pattern-dtype",
        choices=tuple(PATTERN_DTYPES),
        default=PATTERN_DTYPES.default,
        help=f"{PATTERN_DTYPES.help} Default: {PATTERN_DTYPES.default}.".replace("%", "%%"),
    )
    command.add_argument(
        "--pattern-layers",
        type=int,
        nargs="*",
        metavar="LAYER",
        help="keep the patterns of these layers only",
    )
    command.add_argument(
        "--patterns-on-disk", action="store_true",
        help="keep patterns in a temporary file instead of in memory",
    )  # fmt: skip


def trace_options(chosen: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of ``trace`` that a user chose.

    Raises:
        SpecError: If an edit can't be read.
    """
    from analysis.tracing.edits import parse_all

    names = ("pattern_dtype", "pattern_layers", "patterns_on_disk")
    options = {name: getattr(chosen, name) for name in names}
    return {**options, "interventions": parse_all(chosen.edit)}


def check(chosen: argparse.Namespace) -> int:
    """Print the ledger of a model, or of a prompt's run; 0 if every identity holds, else 1."""
    from analysis.ledger import check_run
    from analysis.loading import load_model
    from analysis.tracing.capture import trace

    tokens: tuple[Token, ...] = ()
    try:
        _require_prompt(chosen)
        model = load_model(chosen.model, dtype=chosen.dtype, device=chosen.device)
        if chosen.prompt is None:
            ledger = model.check()
        else:
            states = trace(model, chosen.prompt, **trace_options(chosen))
            tokens = states.tokens
            ledger = check_run(
                model, states, LedgerSpec(-1 if chosen.position is None else chosen.position)
            )
    except AnalysisError as error:
        if not chosen.json:
            raise
        print(json.dumps({"passed": False, "error": error.message, "hint": error.hint}, indent=1))
        return 1
    write = _as_json if chosen.json else _as_text
    print("\n".join(write(model.info, ledger, tokens)))
    return 0 if ledger.passed else 1


def _require_prompt(chosen: argparse.Namespace) -> None:
    """Refuse options of a run where there is no prompt.

    Raises:
        SpecError: Naming the option.
    """
    given = {
        "--position": chosen.position is not None,
        "--pattern-dtype": chosen.pattern_dtype != PATTERN_DTYPES.default,
        "--pattern-layers": chosen.pattern_layers is not None,
        "--patterns-on-disk": chosen.patterns_on_disk,
    }
    for option, is_given in given.items():
        if is_given and chosen.prompt is None:
            raise SpecError(f"{option} needs a prompt.", "Give --prompt.")


def _as_json(info: ModelInfo, ledger: Ledger, tokens: tuple[Token, ...]) -> list[str]:
    entries = [{**asdict(entry), "passed": entry.passed} for entry in ledger.entries]
    facts: dict[str, Any] = {
        "passed": ledger.passed,
        "colour": ledger.colour,
        "model": asdict(info),
    }
    if tokens:
        facts["tokens"] = [asdict(token) for token in tokens]
    return [json.dumps({**facts, "entries": entries}, indent=1)]


def _as_text(info: ModelInfo, ledger: Ledger, tokens: tuple[Token, ...]) -> list[str]:
    packed = f", {info.quantised}" if info.quantised else ""
    head = f"{info.name} ({info.architecture}, {info.dtype}{packed}, {info.device})"
    rows = [
        (f"{entry.number}. {entry.name}", f"{entry.error:.1e}", f"{entry.tolerance:.0e}",
         "ok" if entry.passed else "FAILS", entry.note)
        for entry in ledger.entries
    ]  # fmt: skip
    verdict = {"green": "every identity holds", "red": "NOT every identity holds"}.get(
        ledger.colour, "every identity holds within the tolerance of 16-bit or packed weights"
    )
    return [
        f"{head}, revision {info.revision}",
        *([f"run of {len(tokens)} tokens"] if tokens else []),
        *table(("identity", "largest relative error", "tolerance", "", ""), rows),
        verdict,
    ]


@dataclass(frozen=True, slots=True)
class Offer:
    """A model on offer as ``stratascope models`` lists it; ``needs`` and ``free`` in bytes."""

    name: str
    source: str
    dtype: str
    device: str
    needs: int | None
    free: int | None
    trouble: str = ""

    @property
    def fits(self) -> bool | None:
        """Whether it fits in memory now; None if its size or the free memory is not known."""
        return None if self.needs is None or self.free is None else self.needs <= self.free


def offers() -> tuple[Offer, ...]:
    """Every model on offer, with what it needs and what is free; reads no weights."""
    return tuple(_offer(entry) for entry in catalog.entries())


def _offer(listed: catalog.Entry) -> Offer:
    from analysis.model import hub as hub_module
    from analysis.model import memory as memory_module
    from analysis.model import pretrained as placement_module

    source = f"{listed.source}+{listed.adapter}" if listed.adapter else listed.source
    shown_as = listed.name, source, listed.dtype, listed.device
    try:
        entry = catalog.offered(listed.name)
        if entry.kind == "hub" and not hub_module.is_cached(entry.source):
            return Offer(*shown_as, None, None, "it is fetched when it is first loaded")
        plan, dtype = placement_module.choose(entry), catalog.dtype_of(entry)
        shown = f"{dtype}, {entry.quantise}" if entry.quantise else dtype
        needs, free = memory_module.needed(entry, dtype), memory_module.free(plan.where)
    except (AnalysisError, OSError, ValueError, KeyError) as error:
        return Offer(*shown_as, None, None, str(error))
    return Offer(listed.name, source, shown, plan.where, needs, free)


def models(chosen: argparse.Namespace) -> int:
    """Print the catalogue; 1 if a model on it does not fit, else 0."""
    found = offers()
    if chosen.json:
        print(json.dumps([{**asdict(offer), "fits": offer.fits} for offer in found], indent=1))
    else:
        head = ("name", "source", "dtype", "device", "needs about", "free", "fits")
        print("\n".join(table(head, [_row(offer) for offer in found])))
        for offer in found:
            if offer.trouble:
                print(f"{offer.name}: {offer.trouble}", file=sys.stderr)
    return 1 if any(offer.fits is False for offer in found) else 0


def _row(offer: Offer) -> tuple[str, ...]:
    def size(value: int | None) -> str:
        """Bytes in GB, or a question mark if unknown."""
        return "?" if value is None else f"{value / 1e9:.1f} GB"

    fits = {True: "yes", False: "no", None: "not known"}[offer.fits]
    return (
        offer.name, offer.source, offer.dtype, offer.device, size(offer.needs), size(offer.free),
        fits,
    )  # fmt: skip


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns one below the other."""
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]
