"""Which modules write to the residual stream: solve a block's next row as a sum of their outputs.

A block's next row is ``carry * resid + sum(scale_i * output_i) + offset``. In most models carry
and scales are 1 and there is no offset. Some scale the increments (Granite), the whole row
(Gemma 4), or each coordinate (Doge, Zaya). The equation is solved on all probes together.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from analysis.errors import UnsupportedModelError
from analysis.model.probe import Record, relative_error, rounding, tolerance

#: A factor: one number, or [d_model] one for each coordinate.
Scale = float | Tensor
#: The most modules that write in one block.
_MOST_WRITERS = 4
#: A scale or carry below this is none.
_SMALLEST = 1e-3


@dataclass
class Solution:
    """Modules whose scaled outputs sum to a block's increment.

    Attributes:
        names: Their names below the block, in the order in which they returned.
        numbers: Their calls' numbers in the record of the first probe.
        scales: Factors of their outputs.
        error: Relative error of the sum.
        carry: Factor of the residual.
        offset: [d_model] constant that the block adds; None if there is none.
        zero: Whether one of the modules writes zero.
    """

    names: tuple[str, ...]
    numbers: tuple[int, ...]
    scales: tuple[Scale, ...]
    error: float
    carry: Scale = 1.0
    offset: Tensor | None = None
    zero: bool = False


Solutions = dict[tuple[str, ...], Solution]

#: A block that no modules explain: it counts as one part.
WHOLE = Solution((), (), (), 0.0)


@dataclass
class Problem:
    """One block on all probes, with its positions joined.

    Attributes:
        residual, whole: [n, d_model] the block's input and output.
        names, numbers: Of the calls that could be writers, in order.
        outputs: [call, n, d_model].
        dtype: Of the weights; it sets the tolerance.
    """

    residual: Tensor
    whole: Tensor
    names: list[str]
    numbers: list[int]
    outputs: Tensor
    dtype: torch.dtype

    def subsets(self, size: int) -> Iterator[tuple[int, ...]]:
        """All sets of so many calls."""
        yield from itertools.combinations(range(len(self.names)), size)

    def solution(self, chosen: Sequence[int], scales: Sequence[Scale], error: float) -> Solution:
        """A solution by the places of its calls."""
        return Solution(
            tuple(self.names[place] for place in chosen),
            tuple(self.numbers[place] for place in chosen),
            tuple(scales),
            error,
            zero=not all(bool(self.outputs[place].any()) for place in chosen),
        )


def problem(
    name: str,
    module: nn.Module,
    records: list[Record],
    dtype: torch.dtype,
    entry: nn.Module | None = None,
) -> Problem:
    """The equation of one block.

    Args:
        name: The block's name in the model.
        module: The block.
        records: A recorded pass of each probe.
        dtype: Of the weights.
        entry: A module in the block whose output is the residual, instead of the block's input.

    Raises:
        UnsupportedModelError: If the block does not map one hidden state to another.
    """
    found = [record.of(module) for record in records]
    ends = [(one.input, one.output) for one in found if one is not None and one.input is not None]
    if len(ends) < len(records) or any(a.shape != b.shape or a.dim() != 3 for a, b in ends):
        raise UnsupportedModelError(
            "The blocks keep several residual streams, or none: a block's input and output are "
            "not one vector for each position.",
            "Choose a model with one residual stream.",
        )
    if entry is not None:
        inside = [record.of(entry) for record in records]
        ends = [(a.output, b) for a, (_, b) in zip(inside, ends, strict=True) if a is not None]
    width = ends[0][1].shape[-1]
    joined = [torch.cat([pair[side].reshape(-1, width) for pair in ends]) for side in (0, 1)]
    calls = [_candidates(record, name, end) for record, (_, end) in zip(records, ends, strict=True)]
    shared = [key for key in calls[0] if all(key in others for others in calls)]
    outputs = {key: torch.cat([found[key][1] for found in calls]) for key in shared}
    kept = _distinct({key: one for key, one in outputs.items() if not torch.equal(one, joined[1])})
    return Problem(
        joined[0],
        joined[1],
        kept,
        [calls[0][key][0] for key in kept],
        torch.stack([outputs[key] for key in kept]) if kept else joined[0][None][:0],
        dtype,
    )


def _candidates(record: Record, name: str, whole: Tensor) -> dict[str, tuple[int, Tensor]]:
    """Number and output [n, d_model] of the calls that could be writers, by name, in order.

    Of calls that return zero, as in a pruned block, the last of each uninterrupted run counts. A
    module that is called twice in a block (Phi's dropout) is left out: a hook can't tell its
    calls apart.
    """
    kept: dict[str, tuple[int, Tensor]] = {}
    last, after_zero = "", False
    for number, event in record.under(name):
        zero = not bool(event.output.any())
        after_zero = after_zero and zero
        same_size = event.output.numel() == whole.numel()
        same_size = same_size and event.output.shape[-1] == whole.shape[-1]
        if not same_size or record.calls(event.module) > 1:
            continue
        if after_zero:
            kept.pop(last)
        last, after_zero = event.name.removeprefix(f"{name}."), zero
        kept[last] = number, event.output.reshape(-1, whole.shape[-1])
    return kept


def _distinct(outputs: dict[str, Tensor]) -> list[str]:
    """Names of the outputs; of several equal ones only the last."""
    kept: list[str] = []
    for name, output in outputs.items():
        if output.any():
            kept = [other for other in kept if not torch.equal(outputs[other], output)]
        kept.append(name)
    return kept


def plain_solutions(problem: Problem, attends: set[str]) -> Solutions:
    """The sums of one or two modules that explain a block, by the modules' names.

    Args:
        problem: The block.
        attends: Names of the modules that follow the heads' outputs; if a sum has one of them,
            those without are left out.
    """
    short = _plain_sums(problem, (1, 2))
    short = {key: one for key, one in short.items() if len(key) > 1 or not one.zero}
    return _attending(short, attends)


def _attending(found: Solutions, attends: set[str]) -> Solutions:
    return {key: one for key, one in found.items() if attends & set(key)} or found


def solve(problem: Problem, usual: Iterable[Solution], attends: set[str]) -> Solutions:
    """The smallest sets of modules that explain a block, by a longer search.

    Args:
        problem: A block without a plain solution.
        usual: Solutions of earlier blocks; they are tried before the search.
        attends: See ``plain_solutions``.
    """
    for known in usual:
        again = _again(problem, known)
        if again is not None:
            return {again.names: again}
    return _attending(_joint(problem) or _long(problem), attends)


def _again(problem: Problem, known: Solution) -> Solution | None:
    """The same modules as in another block, if they fit here."""
    if not set(known.names) <= set(problem.names):
        return None
    chosen = tuple(problem.names.index(name) for name in known.names)
    for fit in (_fit_sum, _fit_carried, _fit_coordinates):
        found = fit(problem, chosen)
        if found is not None and not found.zero:
            return found
    return None


def _long(problem: Problem) -> Solutions:
    """Sums of three or more outputs, then sums with a scaled residual."""
    for size in range(3, _MOST_WRITERS + 1):
        found = _plain_sums(problem, (size,))
        if found:
            return found
    for fit in (_fit_carried, _fit_coordinates):
        for size in range(1, _MOST_WRITERS):
            solutions = (fit(problem, chosen) for chosen in problem.subsets(size))
            found = {one.names: one for one in solutions if one is not None and not one.zero}
            if found:
                return found
    return {}


def _joint(problem: Problem) -> Solutions:
    """The solution of all outputs together, if they are independent: most scales are then 0."""
    flat = problem.outputs.flatten(1).double()
    flat = flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-30)
    gram = flat @ flat.T
    if len(flat) < 3 or float(torch.linalg.eigvalsh(gram)[0]) < 1e-8:
        return {}
    wanted = (problem.whole - problem.residual).flatten().double()
    found = torch.linalg.solve(gram, flat @ wanted)
    chosen = tuple((found.abs() > 1e-3 * found.abs().max()).nonzero()[:, 0].tolist())
    one = _fit_sum(problem, chosen)
    return {} if one is None or one.zero else {one.names: one}


def _plain_sums(problem: Problem, sizes: Sequence[int]) -> Solutions:
    solutions = (_fit_sum(problem, chosen) for size in sizes for chosen in problem.subsets(size))
    found = [one for one in solutions if one is not None]
    return {one.names: one for one in found if len(one.names) < 3 or not one.zero}


def _fit_sum(problem: Problem, chosen: tuple[int, ...]) -> Solution | None:
    """``resid + sum(scale_i * output_i)``, with scales 1 unless others are clearly better."""
    outputs = problem.outputs[list(chosen)]
    plain = relative_error(problem.residual + outputs.sum(0), problem.whole)
    scales, error = [1.0] * len(chosen), plain
    fitted = _fitted_scales(outputs, problem.whole - problem.residual)
    if fitted is not None and min(abs(one) for one in fitted) > _SMALLEST:
        scaled = outputs * torch.tensor(fitted, dtype=outputs.dtype)[:, None, None]
        better = relative_error(problem.residual + scaled.sum(0), problem.whole)
        # A fitted scale must be clearly better than a plain sum, or rounding would decide.
        if better < 0.05 * plain:
            scales, error, outputs = fitted, better, scaled
    if not _explained(problem, [problem.residual, *outputs]):
        return None
    return problem.solution(chosen, scales, error)


def _fitted_scales(outputs: Tensor, wanted: Tensor) -> list[float] | None:
    """Scales by least squares; outputs of zero get the scale of the others' sum."""
    flat, goal = outputs.flatten(1).double(), wanted.flatten().double()
    if not all(bool(one.any()) for one in flat):
        both = flat.sum(0)
        scale = float(both @ goal / (both @ both)) if both.any() else 1.0
        return [scale] * len(flat)
    gram = flat @ flat.T
    if float(torch.linalg.det(gram)) <= 1e-12 * float(gram.diagonal().prod()):
        return None
    found: list[float] = torch.linalg.solve(gram, flat @ goal).tolist()
    return found


def _fit_carried(problem: Problem, chosen: tuple[int, ...]) -> Solution | None:
    """``carry * resid + sum(scale_i * output_i)``, each factor one number."""
    parts = torch.cat([problem.residual[None], problem.outputs[list(chosen)]])
    fitted = _fitted_scales(parts, problem.whole)
    if fitted is None or min(abs(one) for one in fitted) < _SMALLEST:
        return None
    scaled = parts * torch.tensor(fitted, dtype=parts.dtype)[:, None, None]
    error = relative_error(scaled.sum(0), problem.whole)
    if not _explained(problem, list(scaled)):
        return None
    found = problem.solution(chosen, fitted[1:], error)
    found.carry = fitted[0]
    return found


def _fit_coordinates(problem: Problem, chosen: tuple[int, ...]) -> Solution | None:
    """``carry * resid + sum(scale_i * output_i) + offset``, with a factor for each coordinate."""
    parts = torch.cat([problem.residual[None], problem.outputs[list(chosen)]])
    few = slice(0, 8)  # most sets already fail on a few coordinates
    if _coordinates(parts[..., few], problem.whole[..., few], problem.dtype) is None:
        return None
    found = _coordinates(parts, problem.whole, problem.dtype)
    if found is None:
        return None
    factors, error = found
    solution = problem.solution(chosen, [_number(one) for one in factors[1:-1]], error)
    solution.carry = _number(factors[0])
    offset = factors[-1]
    solution.offset = offset if float(offset.abs().max()) > 1e-5 else None
    return solution


def _coordinates(parts: Tensor, whole: Tensor, dtype: torch.dtype) -> tuple[Tensor, float] | None:
    """Factors [part + 1, d] by least squares, the offset last, and the error; None: no fit."""
    matrix = torch.cat([parts, torch.ones_like(parts[:1])]).permute(2, 1, 0).double()
    solved = torch.linalg.lstsq(matrix, whole.T[..., None].double(), driver="gelsd").solution
    error = relative_error((matrix @ solved)[..., 0].T, whole.double())
    factors = solved[..., 0].T.float()
    sizes = factors[:-1].norm(dim=-1) / factors.shape[-1] ** 0.5
    usable = bool(factors.isfinite().all()) and float(sizes.min()) > _SMALLEST
    return (factors, error) if usable and error < 0.1 * tolerance(dtype) else None


def _number(factor: Tensor) -> Scale:
    """One number if all coordinates have the same factor."""
    mean = float(factor.mean())
    same = float((factor - mean).abs().max()) < 1e-5 * max(abs(mean), 1.0)
    return (1.0 if abs(mean - 1.0) < 1e-5 else mean) if same else factor


def _explained(problem: Problem, parts: list[Tensor]) -> bool:
    """Whether parts sum to the next row in every coordinate, up to rounding.

    Each addition rounds once, relative to the largest summand of its coordinate. A small coordinate
    may be off by the rounding of a writer's mean one. The length of the state does not count:
    beside a massive activation any two small vectors would fit.
    """
    every = torch.stack(parts)
    missing = (every.sum(0) - problem.whole).abs()
    sizes = torch.cat([every, problem.whole[None]]).abs().amax(0)
    mean = every[1:].square().mean(-1, keepdim=True).sqrt().amax(0)
    allowed = max(len(parts) - 1, 2) * rounding(problem.dtype) * torch.maximum(sizes, mean)
    return bool((missing <= allowed).all())


def choose(layers: list[Solutions]) -> list[Solution]:
    """One solution for each block.

    Where several fit, as in a block whose attention or MLP writes zero, the modules that are the
    writers of most other blocks are chosen, then the smallest set that writes something.

    Raises:
        UnsupportedModelError: If several are left.
    """
    sure = Counter(next(iter(found)) for found in layers if len(found) == 1)
    usual = sure.most_common(1)[0][0] if sure else None
    return [
        found[usual] if usual in found else _only(layer, found)
        for layer, found in enumerate(layers)
    ]


def _only(layer: int, found: Solutions) -> Solution:
    silent = [one for one in found.values() if one.zero]
    writing = [one for one in found.values() if not one.zero] or silent
    if len(silent) == 1 and all(len(one.names) == 1 for one in writing):
        writing = silent  # the second module of the pair is the part that writes zero
    smallest = min(len(one.names) for one in writing)
    chosen = [one for one in writing if len(one.names) == smallest]
    if len(chosen) > 1:
        raise UnsupportedModelError(
            f"In layer {layer} {len(chosen)} different sets of modules sum to the block's "
            "increment of the residual stream, so its writers are ambiguous.",
            "Choose another model.",
        )
    return chosen[0]
