"""``stratascope lens ...``: learned lenses from a terminal.

Importable without torch: each command imports what it needs.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from analysis.contract import progress
from analysis.errors import SpecError
from analysis.learned import library


def add_to(commands: Any) -> None:
    """Add ``lens`` and its own commands to a parser's sub-commands."""
    lens = commands.add_parser("lens", help="learned lenses: train, evaluate, list")
    found = lens.add_subparsers(dest="lens", required=True)
    _train_parser(found)
    judging = found.add_parser("evaluate", help="a lens beside the logit lens, row by row")
    judging.add_argument("model", help="as load_model takes it")
    judging.add_argument("file", help="a lens's file, or its name in 'stratascope lens list'")
    judging.add_argument("--text", type=Path, help="a text of your own; each tenth window is read")
    judging.add_argument("--tokens", type=int, default=2048, help="positions of each text (2048)")
    judging.add_argument("--seed", type=int, help="of the text (that of the training)")
    judging.set_defaults(work=_evaluate)
    listing = found.add_parser("list", help="the lenses there are")
    listing.set_defaults(work=_list)


def _train_parser(found: Any) -> None:
    training = found.add_parser(
        "train", help="fit an affine translator per row by KL against the model's own output"
    )
    training.add_argument("model", help="as load_model takes it")
    shape = training.add_mutually_exclusive_group()
    shape.add_argument("--rank", type=int, default=96, help="of each translator (96)")
    shape.add_argument("--full", action="store_true", help="full matrices instead")
    training.add_argument("--text", type=Path, help="train on this file; else on the model's words")
    for name, meaning in (
        ("tokens", "training positions"), ("steps", "batches in all"),
        ("batch", "positions a step"), ("rows", "rows a step, drawn in turns"),
        ("seed", "of text, start and batches"), ("every", "steps between checkpoints"),
    ):  # fmt: skip
        training.add_argument(f"--{name}", type=int, help=meaning)
    training.add_argument("--rate", type=float, help="peak learning rate")
    training.add_argument("--judged", type=int, help="held-out positions of each text")
    training.add_argument("--out", type=Path, help="the lens's file; else in the data folder")
    training.add_argument("--resume", action="store_true", help="go on with what was stopped")
    training.set_defaults(work=_train)


def _say(text: str) -> None:
    print(text, file=sys.stdout, flush=True)


def _train(chosen: argparse.Namespace) -> int:
    import analysis
    from analysis.lens_training import training as training_module
    from analysis.lens_training.evaluate import table
    from analysis.lens_training.fit import FitSpec

    started, worked = time.perf_counter(), time.process_time()
    names = ("tokens", "steps", "batch", "rows", "rate", "seed", "every")
    given = {name: getattr(chosen, name) for name in names if getattr(chosen, name) is not None}
    spec = FitSpec(rank=0 if chosen.full else chosen.rank, **given)
    model = analysis.load_model(chosen.model)
    out = (chosen.out or training_module.default_file(model, spec.rank)).absolute()
    work = training_module.Session(
        model,
        spec,
        out,
        chosen.text,
        _command(chosen, given),
        chosen.judged or training_module.JUDGED,
    )
    with progress.listening(_told):
        info = training_module.run(work, resume=chosen.resume, say=_say)
    for found in info.evaluations:
        _say(f"\n{table(found)}")
    _say(f"\n{info.path}: {info.shape}, {info.nbytes / 1e6:.2f} MB")
    _say(
        f"{time.perf_counter() - started:.0f} s in this go, "
        f"{time.process_time() - worked:.0f} of them on the processor"
    )
    return 0


def _command(chosen: argparse.Namespace, given: dict[str, Any]) -> str:
    """The command without what names places on this machine."""
    words = ["stratascope", "lens", "train", Path(chosen.model).name]
    words += ["--full"] if chosen.full else ["--rank", str(chosen.rank)]
    if chosen.text:
        words += ["--text", chosen.text.name]
    judged = {"judged": chosen.judged} if chosen.judged else {}
    for name, value in {**given, **judged}.items():
        words += [f"--{name}", str(value)]
    return shlex.join(words)


def _evaluate(chosen: argparse.Namespace) -> int:
    import analysis
    from analysis.learned import lens_files
    from analysis.lens_training import texts as texts_module
    from analysis.lens_training import training as training_module
    from analysis.lens_training.evaluate import evaluate, table

    info = named(chosen.file)
    model = analysis.load_model(chosen.model)
    lens_files.require(info, model.info)
    seed = info.seed if chosen.seed is None else chosen.seed
    with progress.listening(_told):
        if chosen.text:
            judged = [texts_module.from_file(model, chosen.text, "held_out")]
        else:
            judged = [texts_module.drawn(model, chosen.tokens, seed, "held_out")]
            judged += training_module.human_words(model, chosen.tokens, seed)
        found = [
            evaluate(model, lens_files.load_lens(info), text, chosen.tokens) for text in judged
        ]
    _say("\n\n".join(table(part) for part in found))
    return 0


def named(name: str) -> library.LensInfo:
    """A lens by its file, or by its name on the shelf.

    Raises:
        SpecError: If there is none.
        StoreError: If the file is no lens.
    """
    for info in library.lenses():
        if name == info.path.stem:
            return info
    path = Path(name)
    if not path.is_file():
        raise SpecError(f"There is no lens {name!r}.", "'stratascope lens list' names them.")
    return library.describe(path.absolute())


def _list(chosen: argparse.Namespace) -> int:
    found = library.lenses()
    if not found:
        _say("There are none. Train one with 'stratascope lens train MODEL'.")
    for info in found:
        origin = "shipped" if info.shipped else str(info.path.parent)
        size = f"{info.nbytes / 1e6:.2f} MB"
        _say(f"{info.path.stem}  for {info.model}, {info.shape}, {size}, {origin}")
        _say(
            f"    trained on {info.text}, {info.tokens} tokens, {info.steps} steps: {info.command}"
        )
        for part in info.evaluations:
            _say(
                f"    {part.text}, {part.tokens} tokens: smaller KL than the logit lens at "
                f"{part.better} of {len(part.rows)} rows"
            )
    return 0


def _told(done: int, total: int, label: str) -> None:
    """Progress on a terminal; the model's own passes are not shown."""
    if label != "Forward pass":
        progress.on_terminal(done, total, label)
