"""What ``benchmarks.peers`` measures: the task, and our own side of each work."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import analysis
from analysis.tracing import generation
from analysis.tracing.specs import RunSpec

CAPTURE = "capture"
LENS = "lens grid"
SWEEP = "patching sweep"
ESTIMATE = "attribution patching"
DIRECT = "direct attribution"
GENERATE = "generation with capture"
#: Candidates of each cell of the lens.
TOP = 5

#: Name -> array. Arrays of one name are compared.
Values: TypeAlias = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Task:
    """What every library computes.

    Attributes:
        folder: The model's.
        ids: The prompt of capture and lens.
        clean, corrupted: Prompts of one length.
        answer, foil: Tokens whose logits are subtracted.
        rows: The residual rows of the sweep: first and last, from 1.
        new_tokens: How many tokens to generate after the clean prompt.
    """

    folder: str
    ids: list[int]
    clean: list[int]
    corrupted: list[int]
    answer: int
    foil: int
    rows: tuple[int, int]
    new_tokens: int

    @property
    def swept(self) -> range:
        """The residual rows of the sweep."""
        return range(self.rows[0], self.rows[1] + 1)

    def metric(self, logits: Tensor) -> Tensor:
        """The answer's last logit minus the foil's, from logits [..., pos, vocab]."""
        difference: Tensor = logits[..., -1, self.answer] - logits[..., -1, self.foil]
        return difference


class Work(NamedTuple):
    """One computation.

    Attributes:
        run: From what ``prepare`` gives to a result. Its time counts.
        values: From the result to the arrays that are compared.
        prepare: Its time does not count.
    """

    run: Callable[[Any], Any]
    values: Callable[[Any], Values]
    prepare: Callable[[], Any] = lambda: None


Works: TypeAlias = dict[str, Work]


def plain(tensors: Iterable[Any]) -> NDArray[Any]:
    """[n, ...] from n tensors [1, ...]."""
    return np.stack([tensor.detach()[0].float().numpy() for tensor in tensors])


def best(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities and ids [..., k] of the most probable tokens."""
    found = logits.softmax(-1).topk(TOP, -1)
    return found.values, found.indices


def cells(found: Iterable[tuple[Tensor, Tensor]]) -> Values:
    """The arrays of a lens from the candidates [1, pos, k] of each row."""
    probs, ids = zip(*found, strict=True)
    return {"probabilities": plain(probs), "tokens": plain(ids).astype(np.int64)}


def begun(found: Values) -> Values:
    """Of a generation, what every library has: the last token need not run."""
    return {"tokens": found["tokens"], "states": found["states"][:, :-1]}


def captured(trace: analysis.Trace) -> Values:
    """What is compared of a capture of ours."""
    return {
        "tokens": np.array(trace.token_ids),
        "states": trace.resid,
        "patterns": np.asarray(trace.pattern),
        "logits": trace.logits,
    }


class Stratascope:
    """Our own side."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.model = analysis.load_model(task.folder, device="cpu")

    def works(self) -> Works:
        """Every work."""
        task, model, rows = self.task, self.model, slice(self.task.rows[0], self.task.rows[1] + 1)
        return {
            CAPTURE: Work(lambda _: analysis.trace(model, task.ids), captured),
            LENS: Work(
                lambda _: analysis.decode(model, analysis.trace(model, task.ids), k=TOP),
                lambda grid: {"probabilities": grid.probs, "tokens": grid.token_ids},
            ),
            SWEEP: Work(
                lambda _: self.sweep(first=task.rows[0], last=task.rows[1]),
                lambda found: {"metric": found.raw[rows]},
            ),
            ESTIMATE: Work(
                lambda _: self.sweep(exact=False),
                # TransformerLens has no state before a block for the last row
                lambda found: {"effect": (found.raw - found.corrupted_value)[:-1]},
            ),
            DIRECT: Work(
                self.direct,
                lambda found: {"logits": np.concatenate([found.heads.ravel(), found.mlps])},
                lambda: analysis.trace(model, task.clean),
            ),
            GENERATE: Work(
                self.generate, lambda trace: begun(captured(trace)), self.forget_the_prompt
            ),
        }

    def sweep(self, **options: Any) -> Any:
        """A sweep of states."""
        task = self.task
        return analysis.sweep(
            self.model, task.clean, task.corrupted, answer=task.answer, foil=task.foil, **options
        )

    def direct(self, trace: analysis.Trace) -> Any:
        """What each part adds to the answer's lead over the foil."""
        return analysis.attribute(self.model, trace, -1, self.task.answer, self.task.foil)

    def generate(self, _: Any) -> analysis.Trace:
        """A trace of the prompt and what follows, as the page runs a prompt."""
        ids = tuple(self.task.clean)
        spec = RunSpec(self.task.folder, token_ids=ids, new_tokens=self.task.new_tokens)
        return generation.run(self.model, spec)[1]

    def forget_the_prompt(self) -> None:
        """Another sequence takes the place of the keys and values that are kept."""
        analysis.generate(self.model, [self.task.foil, self.task.answer], 1)


#: Without gradients.
quiet = torch.no_grad()
