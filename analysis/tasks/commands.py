"""``stratascope tasks ...``: what can be done with tasks from a terminal.

Importable without torch: each command imports what it needs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from analysis import paths
from analysis.contract import progress
from analysis.errors import SpecError
from analysis.store.memo import Memo
from analysis.tasks import suite_files, suites
from analysis.tasks.prompts import Suite
from analysis.tasks.specs import MEASURES

#: Where the weights that come with the package lie.
SHIPPED = Path(__file__).parent / "models" / "addition-5digit"


def add_to(commands: Any) -> None:
    """Add ``tasks`` and its own commands to a parser's sub-commands."""
    tasks = commands.add_parser("tasks", help="task suites, and the model that adds")
    found = tasks.add_subparsers(dest="task", required=True)
    _train_parser(found)
    _run_parser(found)
    judging = found.add_parser("evaluate-addition", help="exact accuracy on held-out sums")
    judging.add_argument("--model", type=Path, default=SHIPPED, help="folder of the model")
    judging.add_argument("--sums", type=int, default=200_000)
    judging.add_argument("--seed", type=int, default=0)
    judging.set_defaults(work=_evaluate)


def _run_parser(found: Any) -> None:
    running = found.add_parser("run", help="run a suite: accuracy, and when answers emerge")
    running.add_argument("suite", nargs="?", help="a suite's name, or a .csv or .jsonl file")
    running.add_argument("--file", type=Path, help="a .csv or .jsonl file of your own")
    running.add_argument("--model", default="addition-5digit", help="as load_model takes it")
    running.add_argument("--size", type=int, default=200, help="prompts")
    running.add_argument("--digits", type=int, default=None, help="of each operand (5)")
    running.add_argument("--seed", type=int, default=0)
    running.add_argument("--label", default="", help="split accuracy by this label")
    running.add_argument("--measure", choices=tuple(MEASURES), default="saturation")
    running.add_argument("--json", type=Path, help="write the report here as well")
    running.set_defaults(work=_run)


def _train_parser(found: Any) -> None:
    training = found.add_parser("train-addition", help="train the small decoder that adds")
    training.add_argument("folder", type=Path, help="where checkpoint and model go; resumed there")
    training.add_argument("--seed", type=int, default=1)
    training.add_argument("--steps", type=int, default=12_000, help="at most")
    training.add_argument("--width", type=int, default=128, help="d_model")
    training.add_argument("--digits", type=int, default=5, help="of each operand")
    training.set_defaults(work=_train)


def _say(text: str) -> None:
    print(text, file=sys.stdout, flush=True)


def _train(chosen: argparse.Namespace) -> int:
    from analysis.tasks.adder_training import TrainSpec, export, train

    started = time.perf_counter()
    spec = TrainSpec(chosen.digits, chosen.width, chosen.seed, chosen.steps)
    run = train(spec, chosen.folder, _say)
    export(run, chosen.folder / "model")
    _say(f"{run.step} steps; {time.perf_counter() - started:.0f} s in this go")
    _say(f"Model in {chosen.folder / 'model'}; judge it with 'stratascope tasks evaluate-addition'")
    return 0


def _evaluate(chosen: argparse.Namespace) -> int:
    from analysis.model.pretrained import load_pretrained
    from analysis.tasks.adder_training import evaluate, table

    loaded = load_pretrained(str(chosen.model))
    operand_digits = int(loaded.model.config.operand_digits)
    found = evaluate(loaded.model, chosen.sums, chosen.seed, operand_digits)
    _say(table(found))
    for a, b in found.wrong:
        _say(f"wrong: {a} + {b}")
    return 0


def _run(chosen: argparse.Namespace) -> int:
    import analysis
    from analysis.tasks import emergence_report
    from analysis.tasks import export as export_module

    suite = _own(chosen)  # first: its mistakes cost no time
    model = analysis.load_model(chosen.model)
    with opened(paths.cache_dir() / "tasks") as memo, progress.listening(progress.on_terminal):
        suite = suite or drawn(model, chosen.suite, chosen.size, chosen.seed, chosen.digits)
        found = emergence_report.report(
            model, suite, memo, measure=chosen.measure, label=chosen.label, seed=chosen.seed
        )
    _say(f"{suite.title}, {len(suite.prompts)} prompts, {model.info.name}")
    _say(export_module.text(found))
    if chosen.json:
        chosen.json.write_text(export_module.as_json(found), encoding="utf-8")
    return 0


def _own(chosen: argparse.Namespace) -> Suite | None:
    """The list of one's own, where a file is named; None where a suite is.

    Raises:
        SpecError: If neither or both are named, or with every bad line of the file.
    """
    if bool(chosen.suite) == (chosen.file is not None):
        raise SpecError(
            "Name either a suite or a file.", f"Suites: {', '.join(suites.NAMES)}; or --file PATH."
        )
    named = chosen.file or Path(chosen.suite)
    is_file = chosen.file is not None or named.suffix.lower() in (".csv", ".jsonl")
    return suite_files.read(named) if is_file else None


def drawn(model: Any, name: str, size: int, seed: int, digits: int | None) -> Suite:
    """A suite by name, sums written as the model reads them."""
    from analysis.tasks.sum_table import operand_digits

    own = operand_digits(model)
    return suites.build(name, size, seed, own or digits or 5, padded=own is not None)


@contextmanager
def opened(folder: Path) -> Iterator[Memo]:
    """The memo of finished prompts, so that a run that was stopped goes on where it was."""
    memo = Memo(folder, 1 << 30)
    try:
        yield memo
    finally:
        memo.close()


def main(arguments: list[str] | None = None) -> int:
    """``python -m analysis.tasks.commands``: the same commands without the app."""
    parser = argparse.ArgumentParser(prog="python -m analysis.tasks.commands")
    add_to(parser.add_subparsers(dest="command", required=True))
    chosen = parser.parse_args(arguments)
    return int(chosen.work(chosen))


if __name__ == "__main__":
    sys.exit(main())
