"""The commands ``stratascope lens ...``: train, evaluate and list learned lenses.

Importable without torch: each command imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from analysis.contract import jobs
from analysis.errors import SpecError
from analysis.learned import library

_MODEL = "a catalogue name, hub id, folder or .gguf file"


def add_to(commands: Any) -> None:
    """Add ``lens`` and its subcommands to a parser's subcommands."""
    lens = commands.add_parser("lens", help="learned lenses: train, evaluate, list")
    found = lens.add_subparsers(dest="lens", required=True)
    _train_parser(found)
    evaluating = found.add_parser("evaluate", help="compare a lens with the logit lens, by row")
    evaluating.add_argument("model", help=_MODEL)
    evaluating.add_argument("file", help="a lens file, or a name from 'stratascope lens list'")
    evaluating.add_argument(
        "--text", type=Path, help="your own text file; every tenth window is read"
    )
    evaluating.add_argument("--tokens", type=int, default=2048, help="positions per text (2048)")
    evaluating.add_argument("--seed", type=int, help="seed of the text (that of the training)")
    evaluating.set_defaults(work=_evaluate)
    importing = found.add_parser("import", help="use a lens of the package tuned-lens")
    importing.add_argument("model", help=_MODEL)
    importing.add_argument(
        "folder",
        help="a folder with config.json and params.pt, or one of the hub: owner/name,"
        " spaces/owner/name/folder, each perhaps with @revision",
    )
    importing.set_defaults(work=_import)
    listing = found.add_parser("list", help="list the available lenses")
    listing.set_defaults(work=_list)


def _train_parser(found: Any) -> None:
    training = found.add_parser(
        "train", help="fit an affine translator per row by KL against the model's own output"
    )
    training.add_argument("model", help=_MODEL)
    shape = training.add_mutually_exclusive_group()
    shape.add_argument("--rank", type=int, default=96, help="rank of each translator (96)")
    shape.add_argument("--full", action="store_true", help="full matrices instead")
    training.add_argument(
        "--text",
        type=Path,
        help="train on this text file; without it, on text that the model writes",
    )
    for name, meaning in (
        ("tokens", "training positions"), ("steps", "number of batches"),
        ("batch", "positions in each step"), ("rows", "rows in each step, in turns"),
        ("seed", "seed of text, weights and batches"), ("every", "steps between checkpoints"),
    ):  # fmt: skip
        training.add_argument(f"--{name}", type=int, help=meaning)
    training.add_argument("--rate", type=float, help="peak learning rate")
    training.add_argument("--judged", type=int, help="held-out positions to evaluate per text")
    training.add_argument("--out", type=Path, help="the lens file; else in the data folder")
    training.add_argument("--resume", action="store_true", help="resume a stopped training")
    training.set_defaults(work=_train)


def _say(text: str) -> None:
    print(text, file=sys.stdout, flush=True)


def _train(chosen: argparse.Namespace) -> int:
    from analysis.lens_training.fit import FitSpec
    from analysis.lens_training.training import JUDGED, Session, default_file, run, table
    from analysis.loading import load_model

    started, worked = time.perf_counter(), time.process_time()
    names = ("tokens", "steps", "batch", "rows", "rate", "seed", "every")
    given = {name: getattr(chosen, name) for name in names if getattr(chosen, name) is not None}
    spec = FitSpec(rank=0 if chosen.full else chosen.rank, **given)
    model = load_model(chosen.model)
    out = (chosen.out or default_file(model, spec.rank)).absolute()
    command, held_out = _command(chosen, given), chosen.judged or JUDGED
    with jobs.listening(_without_passes):
        info = run(
            Session(model, spec, out, chosen.text, command, held_out),
            resume=chosen.resume, report=_say,
        )  # fmt: skip
    for found in info.evaluations:
        _say(f"\n{table(found)}")
    _say(f"\n{info.path}: {info.shape}, {info.nbytes / 1e6:.2f} MB")
    _say(
        f"{time.perf_counter() - started:.0f} s since the start or resume, "
        f"{time.process_time() - worked:.0f} s of processor time"
    )
    return 0


def _command(chosen: argparse.Namespace, given: dict[str, Any]) -> str:
    """The command, without paths of this machine."""
    words = ["stratascope", "lens", "train", Path(chosen.model).name]
    words += ["--full"] if chosen.full else ["--rank", str(chosen.rank)]
    if chosen.text:
        words += ["--text", chosen.text.name]
    judged = {"judged": chosen.judged} if chosen.judged else {}
    for name, value in {**given, **judged}.items():
        words += [f"--{name}", str(value)]
    return shlex.join(words)


def _import(chosen: argparse.Namespace) -> int:
    from analysis.learned.translators import import_tuned_lens
    from analysis.loading import load_model

    info = import_tuned_lens(load_model(chosen.model), chosen.folder)
    _say(f"{info.path}: {info.shape}, {info.nbytes / 1e6:.2f} MB")
    return 0


def _evaluate(chosen: argparse.Namespace) -> int:
    from analysis.learned.translators import load_lens, require
    from analysis.lens_training import texts
    from analysis.lens_training.training import evaluate, table
    from analysis.loading import load_model

    info = named(chosen.file)
    model = load_model(chosen.model)
    require(info, model.info)
    seed = info.seed if chosen.seed is None else chosen.seed
    with jobs.listening(_without_passes):
        if chosen.text:
            held_out = [texts.from_file(model, chosen.text, "held_out")]
        else:
            held_out = [texts.own_text(model, chosen.tokens, seed, "held_out")]
            held_out += texts.human_text(model, chosen.tokens, seed)
        lens = load_lens(info)
        found = [evaluate(model, lens, text, chosen.tokens) for text in held_out]
    _say("\n\n".join(table(part) for part in found))
    return 0


def named(name: str) -> library.LensInfo:
    """A lens by its file, or by its name in the list.

    Raises:
        SpecError: If there is none.
        StoreError: If the file is not a lens.
    """
    for info in library.lenses():
        if name == info.path.stem:
            return info
    path = Path(name)
    if not path.is_file():
        raise SpecError(f"There is no lens {name!r}.", "List them with 'stratascope lens list'.")
    return library.describe(path.absolute())


def _list(chosen: argparse.Namespace) -> int:
    found = library.lenses()
    if not found:
        _say("There are no lenses. Train one with 'stratascope lens train MODEL'.")
    for info in found:
        origin = "shipped" if info.shipped else str(info.path.parent)
        size = f"{info.nbytes / 1e6:.2f} MB"
        _say(f"{info.path.stem}  for {info.model}, {info.shape}, {size}, {origin}")
        trained = (
            f"trained on {info.text}, {info.tokens} tokens, {info.steps} steps: {info.command}"
        )
        _say(f"    {trained if info.steps else info.text}")
        for part in info.evaluations:
            _say(
                f"    {part.text}, {part.tokens} tokens: smaller KL than the logit lens at "
                f"{part.better} of {len(part.rows)} rows"
            )
    return 0


def _without_passes(done: int, total: int, label: str) -> None:
    """Show progress on a terminal, except that of single forward passes."""
    if label != "Forward pass":
        jobs.on_terminal(done, total, label)
