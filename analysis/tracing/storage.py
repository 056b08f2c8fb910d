"""How a trace stores the arrays of its layers, and the memory that a pass and a trace need."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike
from torch import Tensor

from analysis import paths
from analysis.contract.arguments import convert_fields
from analysis.contract.specs import Floats, resolve_index
from analysis.errors import NotEnoughMemoryError, SpecError
from analysis.model import memory
from analysis.model.handle import Model
from analysis.tracing.interventions import PATTERN_DTYPES

Shape = tuple[int, ...]


class LayerArrays(Sequence[Any]):
    """Arrays of layers whose shapes differ, or of which some were not kept.

    Args:
        arrays: The array of each layer; None where it was not kept.
    """

    def __init__(self, arrays: Sequence[Floats | None]) -> None:
        self.arrays = tuple(arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, layer: Any) -> Any:
        """The array of one layer.

        Raises:
            SpecError: If there is no such layer, or its array was not kept.
        """
        if isinstance(layer, (slice, tuple)):
            raise SpecError(
                "The layers have arrays of different shapes, or some were not kept.",
                "Choose one layer: trace.pattern[layer].",
            )
        found = self.arrays[resolve_index("Layer", layer, len(self.arrays))]
        if found is None:
            raise SpecError(
                f"The attention pattern of layer {layer} was not kept.",
                "Trace the prompt again, with this layer in pattern_layers.",
            )
        return found

    def __iter__(self) -> Iterator[Any]:
        return (self[layer] for layer in range(len(self)))

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays in memory."""
        return sum(in_memory(array) for array in self.arrays if array is not None)


PerLayer: TypeAlias = Floats | LayerArrays


def allocate(
    size: int,
    shapes: Sequence[Shape | None],
    fill: Sequence[float | None],
    dtype: DTypeLike = np.float32,
    *,
    on_disk: bool = False,
) -> PerLayer:
    """An array [sequence, layer, ...], or one [sequence, ...] for each layer.

    Args:
        size: Sequences.
        shapes: The shape in each layer; None for a layer that is not kept.
        fill: The number that a layer begins with; None: its numbers are set later.
        dtype: Of the numbers.
        on_disk: Keep the numbers in temporary files, mapped to memory.

    Raises:
        OSError: If the disk has no room for the files.
    """
    make = _mapped if on_disk else np.empty
    first = next((shape for shape in shapes if shape is not None), ())
    made: PerLayer
    if size and all(shape == first for shape in shapes):
        made = make((size, len(shapes), *first), dtype)
    else:
        made = LayerArrays(
            [None if shape is None else make((size, *shape), dtype) for shape in shapes]
        )
    for layer, value in enumerate(fill):
        if value is not None and shapes[layer] is not None:
            of_layer(made, layer)[...] = value
    return made


def of_layer(arrays: PerLayer, layer: int) -> Floats:
    """[sequence, ...] one layer of arrays from ``allocate``."""
    found: Floats = arrays[layer] if isinstance(arrays, LayerArrays) else arrays[:, layer]
    return found


def is_kept(arrays: PerLayer, layer: int) -> bool:
    """Whether the array of a layer was kept."""
    return not isinstance(arrays, LayerArrays) or arrays.arrays[layer] is not None


def of_sequence(arrays: PerLayer, number: int) -> PerLayer:
    """[layer, ...] the arrays of one sequence."""
    if isinstance(arrays, LayerArrays):
        return LayerArrays([None if one is None else one[number] for one in arrays.arrays])
    one: Floats = arrays[number]
    return one


def in_memory(array: Any) -> int:
    """Bytes of an array; 0 if it is on disk."""
    base = array
    while base is not None:
        if isinstance(base, np.memmap):
            return 0
        base = getattr(base, "base", None)
    return int(array.nbytes)


def _mapped(shape: Shape, dtype: DTypeLike) -> Any:
    """An array in a temporary file, which is removed when the array is."""
    size = max(int(np.prod(shape)) * np.dtype(dtype).itemsize, 1)
    with tempfile.TemporaryFile(dir=folder()) as file:
        if hasattr(os, "posix_fallocate"):  # else a full disk would end the process
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
        return np.memmap(file, dtype, "r+", shape=shape)


def folder() -> Path:
    """The folder of the temporary files."""
    chosen = paths.cache_dir()
    chosen.mkdir(parents=True, exist_ok=True)
    return chosen


#: Work below this is not checked: it always fits, and asking for the free memory takes time.
_SMALL = 64 << 20
#: Allowance for temporary arrays beside those that are counted.
_MARGIN = 1.1
#: Arrays [head, query, key] that eager attention holds at once: scores, their sum with the mask,
#: and the softmax in float32 (measured with benchmarks/trace_memory.py).
_SCORES = 3


@dataclass(frozen=True, slots=True)
class PatternStore:
    """How a trace keeps attention patterns.

    Attributes:
        dtype: "float32" or "float16"; see ``PATTERN_DTYPES``.
        layers: The layers whose patterns are kept; None for all.
        on_disk: Whether they are in a temporary file, mapped to memory, instead of in memory.
        block: Positions that are run at once; 0 for all.
    """

    dtype: str = "float32"
    layers: tuple[int, ...] | None = None
    on_disk: bool = False
    block: int = 0

    def __post_init__(self) -> None:
        convert_fields(self)
        PATTERN_DTYPES.check(self.dtype)

    def of(self, model: Model) -> PatternStore:
        """The same with layers counted from the start.

        Raises:
            SpecError: If a layer does not exist.
        """
        if self.layers is None:
            return self
        chosen = {resolve_index("Layer", layer, model.info.layers) for layer in self.layers}
        return replace(self, layers=tuple(sorted(chosen)))

    def keeps(self, layer: int) -> bool:
        """Whether the pattern of a layer is kept."""
        return self.layers is None or layer in self.layers

    def arrays(
        self, model: Model, size: int, length: int, before: int = 0
    ) -> tuple[PerLayer, PerLayer]:
        """Arrays for patterns, NaN in a layer without attention, and for values, zero there.

        The queries are ``length`` positions, the keys ``before`` earlier ones, too.
        """
        info, blocks, keys = model.info, model.stream.blocks, before + length
        shapes = [
            (block.heads or info.heads, length, keys) if self.keeps(layer) else None
            for layer, block in enumerate(blocks)
        ]
        values = [
            (block.kv_heads, keys, block.d_head) if block.heads
            else (info.kv_heads, keys, info.d_head)
            for block in blocks
        ]  # fmt: skip
        empty = [None if block.heads else np.nan for block in blocks]
        zero = [None if block.heads else 0.0 for block in blocks]
        return (
            allocate(size, shapes, empty, self.dtype, on_disk=self.on_disk),
            allocate(size, values, zero),
        )


#: Every pattern in 32 bits, in memory.
ALL_PATTERNS = PatternStore()


@dataclass(frozen=True, slots=True)
class _Need:
    """Bytes of main memory, of the device's memory, and of disk."""

    memory: int
    device: int
    disk: int = 0

    @property
    def text(self) -> str:
        """Such as "24.1 GB" or "9.1 GB, and 38.9 GB of disk"."""
        disk = f", and {_size(self.disk)} of disk" if self.disk else ""
        return _size(max(self.memory, self.device)) + disk


def pass_bytes(model: Model, size: int, length: int, block: int = 0) -> int:
    """Bytes that a forward pass of ``size`` sequences of ``length`` tokens needs on its device.

    With a ``block``, that many positions are run at once.
    """
    info, wide = model.info, model.dtype.itemsize
    some = min(block, length) or length
    scores = _SCORES * info.heads * some * length * 4
    states = 8 * some * info.d_model * wide
    logits = some * info.vocab * wide
    return int(_MARGIN * size * (scores + states + logits))


def _need(model: Model, size: int, length: int, store: PatternStore, *, whole: bool) -> _Need:
    """What a recorded pass needs: the kept arrays, and the pass itself."""
    info, blocks = model.info, model.stream.blocks
    rows = (info.layers + 1) * length * info.d_model
    patterns = 0
    if whole:
        rows += max(2, len(model.stream.parts)) * info.layers * length * info.d_model
        if store.block or model.info.dtype != "float32" or model.device.type != "cpu":
            rows += length * info.vocab  # else the trace keeps the pass's own logits
        values = (block.kv_heads * block.d_head or info.kv_heads * info.d_head for block in blocks)
        rows += 2 * sum(values) * length  # and as many keys
        kept = [block.heads or info.heads for n, block in enumerate(blocks) if store.keeps(n)]
        patterns = sum(kept) * length**2 * (2 if store.dtype == "float16" else 4)
    work = pass_bytes(model, size, length, store.block)
    arrays = size * (4 * rows + (0 if store.on_disk else patterns))
    disk = size * patterns if store.on_disk else 0
    if model.device.type == "cpu":
        return _Need(arrays + work, 0, disk)
    return _Need(arrays, work, disk)


def bytes_needed(model: Model, length: int, store: PatternStore) -> int:
    """Estimated bytes of main memory for the trace of one prompt of ``length`` tokens."""
    return _need(model, 1, length, store, whole=True).memory


def fits(model: Model, length: int, store: PatternStore) -> bool:
    """Whether the trace of one prompt of ``length`` tokens fits."""
    return _fits(model, _need(model, 1, length, store, whole=True))


def _fits(model: Model, need: _Need) -> bool:
    if need.memory > _SMALL and need.memory > memory.free():
        return False
    if need.device > _SMALL and need.device > memory.free(str(model.device)):
        return False
    return need.disk <= _SMALL or need.disk <= shutil.disk_usage(folder()).free


def require(model: Model, size: int, length: int, store: PatternStore, *, whole: bool) -> None:
    """Refuse a recorded pass that does not fit, before any array is made.

    Args:
        model: From ``load_model``.
        size: Sequences.
        length: Tokens of each.
        store: How patterns are kept.
        whole: Whether everything that a ``Trace`` holds is kept; else residual rows only.

    Raises:
        NotEnoughMemoryError: With what is needed and what is free; the hint lists what fits.
    """
    need = _need(model, size, length, store, whole=whole)
    if _fits(model, need):
        return
    what = "A trace" if size == 1 else f"A batch of {size} traces"
    raise NotEnoughMemoryError(
        f"{what} of {length:,} tokens needs about {need.text}; {_free(model, need)}.",
        _offers(model, size, length, whole=whole),
    )


def _free(model: Model, need: _Need) -> str:
    there = memory.free(str(model.device) if need.device > need.memory else "cpu")
    disk = shutil.disk_usage(folder()).free if need.disk else 0
    on_disk = f", and {_size(disk)} of disk" if disk else ""
    return f"{_size(there)}{on_disk} are free"


def _offers(model: Model, size: int, length: int, *, whole: bool) -> str:
    """What fits instead, with what it needs; a shorter prompt if nothing does."""
    found = [] if size > 1 or not whole else list(_stores(model, length))
    if found:
        return f"These fit: {'; '.join(found)}."
    fewer = length
    while fewer > 1:
        fewer = int(fewer * 0.9)
        if _fits(model, _need(model, size, fewer, PatternStore(), whole=whole)):
            return f"Use at most {fewer:,} tokens."
    return "Free some memory, or choose a smaller model."


def _stores(model: Model, length: int) -> Iterator[str]:
    rounding = "each weight is rounded by at most 0.05 %"
    block = model.block_of(length)
    for store, text in (
        (PatternStore("float16"), f"pattern_dtype='float16' ({{}}; {rounding})"),
        (PatternStore(on_disk=True, block=block), "patterns_on_disk=True ({})"),
        (
            PatternStore("float16", on_disk=True, block=block),
            "pattern_dtype='float16' with patterns_on_disk=True ({})",
        ),
    ):
        need = _need(model, 1, length, store, whole=True)
        if _fits(model, need):
            yield text.format(need.text)
    for count in range(model.info.layers - 1, -1, -1):
        need = _need(model, 1, length, PatternStore(layers=tuple(range(count))), whole=True)
        if _fits(model, need):
            layers = f"at most {count} layer{'s' * (count > 1)}" if count else "no layer"
            yield f"pattern_layers with {layers} ({need.text})"
            return


def require_bytes(what: str, size: int, hint: str) -> None:
    """Refuse work whose result needs ``size`` bytes of main memory, if they are not free.

    Args:
        what: The result, as the subject of a sentence.
        size: Bytes.
        hint: What to try.

    Raises:
        NotEnoughMemoryError: With both figures.
    """
    if size > _SMALL and size > memory.free():
        raise NotEnoughMemoryError(
            f"{what} needs up to {_size(size)}; {_size(memory.free())} are free.", hint
        )


def check_pass(model: Model, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse a forward pass that does not fit in the device's memory; called before each one.

    Raises:
        NotEnoughMemoryError: With what is needed and what is free.
    """
    ids = kwargs.get("input_ids", args[0] if args else None)
    if not isinstance(ids, Tensor) or ids.dim() != 2:
        return
    size, length = ids.shape
    need = pass_bytes(model, size, length)
    if need <= _SMALL or need <= memory.free(str(model.device)):
        return
    raise NotEnoughMemoryError(
        f"A forward pass of {length:,} tokens needs about {_size(need)}; "
        f"{_size(memory.free(str(model.device)))} are free.",
        "Shorten the prompt, or choose a smaller model.",
    )


def _size(size: int) -> str:
    return memory.gigabytes(size) if size >= 1e8 else f"{size / 1e6:.1f} MB"
