"""``stratascope tasks ...``: what can be done with tasks from a terminal.

Importable without torch: each command imports what it needs.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

#: Where the weights that come with the package lie.
SHIPPED = Path(__file__).parent / "models" / "addition-5digit"


def add_to(commands: Any) -> None:
    """Add ``tasks`` and its own commands to a parser's sub-commands."""
    tasks = commands.add_parser("tasks", help="task suites, and the model that adds")
    found = tasks.add_subparsers(dest="task", required=True)
    _train_parser(found)
    judging = found.add_parser("evaluate-addition", help="exact accuracy on held-out sums")
    judging.add_argument("--model", type=Path, default=SHIPPED, help="folder of the model")
    judging.add_argument("--sums", type=int, default=200_000)
    judging.add_argument("--seed", type=int, default=0)
    judging.set_defaults(work=_evaluate)


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
    from analysis.tasks.train import TrainSpec, export, train

    started = time.perf_counter()
    spec = TrainSpec(chosen.digits, chosen.width, chosen.seed, chosen.steps)
    run = train(spec, chosen.folder, _say)
    export(run, chosen.folder / "model")
    _say(f"{run.step} steps; {time.perf_counter() - started:.0f} s in this go")
    _say(f"Model in {chosen.folder / 'model'}; judge it with 'stratascope tasks evaluate-addition'")
    return 0


def _evaluate(chosen: argparse.Namespace) -> int:
    from analysis.models.loading import load_pretrained
    from analysis.tasks.evaluate import evaluate, table

    loaded = load_pretrained(str(chosen.model))
    operand_digits = int(loaded.model.config.operand_digits)
    found = evaluate(loaded.model, chosen.sums, chosen.seed, operand_digits)
    _say(table(found))
    for a, b in found.wrong:
        _say(f"wrong: {a} + {b}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """``python -m analysis.tasks.commands``: the same commands without the app."""
    parser = argparse.ArgumentParser(prog="python -m analysis.tasks.commands")
    add_to(parser.add_subparsers(dest="command", required=True))
    chosen = parser.parse_args(arguments)
    return int(chosen.work(chosen))


if __name__ == "__main__":
    sys.exit(main())
