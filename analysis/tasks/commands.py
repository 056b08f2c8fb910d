"""The commands ``stratascope tasks ...`` and ``stratascope direction ...``.

The first are on suites and the model that adds. The second save directions of probes, to steer by.

Importable without torch: each command imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from analysis import paths
from analysis.contract import jobs
from analysis.errors import SpecError
from analysis.store.memo import Memo
from analysis.tasks import suite_files, suites
from analysis.tasks.suite_specs import MEASURES
from analysis.tasks.suites import Suite

#: The folder of the weights that come with the package.
SHIPPED = Path(__file__).parent / "models" / "addition-5digit"


def add_to(commands: Any) -> None:
    """Add ``tasks`` and its subcommands to a parser's subcommands."""
    tasks = commands.add_parser("tasks", help="task suites, and the model that adds")
    found = tasks.add_subparsers(dest="task", required=True)
    _train_parser(found)
    _run_parser(found)
    evaluating = found.add_parser("evaluate-addition", help="exact accuracy on held-out sums")
    evaluating.add_argument("--model", type=Path, default=SHIPPED, help="folder of the model")
    evaluating.add_argument("--sums", type=int, default=200_000, help="number of sums (200000)")
    evaluating.add_argument("--seed", type=int, default=0, help="seed of the sums (0)")
    evaluating.set_defaults(work=_evaluate)
    _add_direction(commands)


def _add_direction(commands: Any) -> None:
    found = commands.add_parser("direction", help="saved directions, to steer by: probe, list")
    found = found.add_subparsers(dest="direction", required=True)
    probing = found.add_parser("probe", help="save the direction of a linear probe for a carry")
    probing.add_argument("model", help="a catalogue name, hub id, folder or file")
    probing.add_argument("name", help="1 to 60 letters, digits, dots, hyphens and underscores")
    probing.add_argument("--target", required=True, help="such as carry1")
    probing.add_argument("--row", type=int, required=True, help="the residual row")
    probing.add_argument("--place", default="", help="such as a2 or equals; the state that writes")
    probing.add_argument("--digits", type=int, default=3, help="digits of each operand (3)")
    probing.add_argument("--sums", type=int, default=800, help="number of sums (800)")
    probing.add_argument("--seed", type=int, default=0, help="seed of the sums (0)")
    probing.add_argument("--replace", action="store_true", help="replace one of that name")
    probing.set_defaults(work=_probe)
    listing = found.add_parser("list", help="list the saved directions")
    listing.set_defaults(work=_list)


def _run_parser(found: Any) -> None:
    running = found.add_parser("run", help="run a suite: accuracy, and when answers emerge")
    running.add_argument("suite", nargs="?", help="a suite's name, or a .csv or .jsonl file")
    running.add_argument("--file", type=Path, help="your own .csv or .jsonl file")
    running.add_argument(
        "--model", default="addition-5digit", help="a catalogue name, hub id, folder or file"
    )
    running.add_argument("--size", type=int, default=200, help="number of prompts (200)")
    running.add_argument("--digits", type=int, default=None, help="digits of each operand (5)")
    running.add_argument("--seed", type=int, default=0, help="seed of the suite (0)")
    running.add_argument("--label", default="", help="split accuracy by this label")
    running.add_argument(
        "--measure", choices=tuple(MEASURES), default="saturation", help=MEASURES.help
    )
    running.add_argument("--json", type=Path, help="also write the report to this file")
    running.set_defaults(work=_run)


def _train_parser(found: Any) -> None:
    training = found.add_parser("train-addition", help="train the small decoder that adds")
    training.add_argument(
        "folder", type=Path, help="folder of checkpoint and model; training resumes from it"
    )
    training.add_argument("--seed", type=int, default=1, help="seed of weights and data (1)")
    training.add_argument("--steps", type=int, default=12_000, help="most steps (12000)")
    training.add_argument("--width", type=int, default=128, help="d_model (128)")
    training.add_argument("--digits", type=int, default=5, help="digits of each operand (5)")
    training.set_defaults(work=_train)


def _say(text: str) -> None:
    print(text, file=sys.stdout, flush=True)


def _train(chosen: argparse.Namespace) -> int:
    from analysis.tasks.adder import TrainSpec, export, train

    started = time.perf_counter()
    spec = TrainSpec(chosen.digits, chosen.width, chosen.seed, chosen.steps)
    run = train(spec, chosen.folder, _say)
    export(run, chosen.folder / "model")
    _say(f"{run.step} steps; {time.perf_counter() - started:.0f} s since the start or resume")
    _say(f"Model in {chosen.folder / 'model'}.")
    _say("Evaluate it with 'stratascope tasks evaluate-addition --model FOLDER'.")
    return 0


def _evaluate(chosen: argparse.Namespace) -> int:
    from analysis.model.pretrained import load_pretrained
    from analysis.tasks.adder import evaluate, table

    loaded = load_pretrained(str(chosen.model))
    operand_digits = int(loaded.model.config.operand_digits)
    found = evaluate(loaded.model, chosen.sums, chosen.seed, operand_digits)
    _say(table(found))
    for a, b in found.wrong:
        _say(f"wrong: {a} + {b}")
    return 0


def _run(chosen: argparse.Namespace) -> int:
    from analysis.loading import load_model
    from analysis.tasks import export
    from analysis.tasks.suite_report import report

    suite = _from_file(chosen)  # before loading, so that a bad file is reported at once
    model = load_model(chosen.model)
    memo = Memo(paths.cache_dir() / "tasks", 1 << 30)  # so that a stopped run can be resumed
    with closing(memo), jobs.listening(jobs.on_terminal):
        suite = suite or _built_in(model, chosen)
        found = report(
            model, suite, memo, measure=chosen.measure, label=chosen.label, seed=chosen.seed
        )
    _say(f"{suite.title}, {len(suite.prompts)} prompts, {model.info.name}")
    _say(export.text(found))
    if chosen.json:
        chosen.json.write_text(export.as_json(found), encoding="utf-8")
    return 0


def _from_file(chosen: argparse.Namespace) -> Suite | None:
    """The suite of the file that is named; None if a built-in suite is named.

    Raises:
        SpecError: If neither or both are named, or with every bad line of the file.
    """
    if bool(chosen.suite) == (chosen.file is not None):
        raise SpecError(
            "Name either a suite or a file.", f"Suites: {', '.join(suites.NAMES)}; or --file PATH."
        )
    path = chosen.file or Path(chosen.suite)
    is_file = chosen.file is not None or path.suffix.lower() in (".csv", ".jsonl")
    return suite_files.read(path) if is_file else None


def _built_in(model: Any, chosen: argparse.Namespace) -> Suite:
    """A suite by name; sums are written as the model reads them."""
    from analysis.tasks.sum_table import operand_digits

    own = operand_digits(model)
    digits = own or chosen.digits or 5
    return suites.build(chosen.suite, chosen.size, chosen.seed, digits, padded=own is not None)


def _probe(chosen: argparse.Namespace) -> int:
    from analysis.loading import load_model
    from analysis.tasks.probes import probe_direction
    from analysis.tracing.interventions import check_direction_name
    from analysis.tracing.vectors import save_direction

    check_direction_name(chosen.name)  # before loading, so that a bad name is reported at once
    model = load_model(chosen.model)
    options = {name: getattr(chosen, name) for name in ("place", "digits", "sums", "seed")}
    with jobs.listening(jobs.on_terminal):
        found = probe_direction(model, chosen.target, chosen.row, **options)
    save_direction(
        model, chosen.name, found.vector, row=found.row, source=found.source,
        replace=chosen.replace,
    )  # fmt: skip
    _say(f"{chosen.name}: {found.source}")
    _say(f"Steer by it: --edit steer_direction:{found.row}:{found.position}:{chosen.name}:2")
    return 0


def _list(chosen: argparse.Namespace) -> int:
    from analysis.tracing.directions import every

    found = every()
    if not found:
        _say("There are no directions. Save one with 'stratascope direction probe MODEL NAME'.")
    for one in found:
        row = "" if one.row is None else f"row {one.row}, "
        _say(f"{one.name}  for {one.model}, {row}length {one.norm:.4g}. {one.source}".rstrip())
    return 0
