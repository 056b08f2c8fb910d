"""Arrays of every layer: one array where all layers have one shape, else one for each layer."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from analysis import paths
from analysis.contract.specs import Floats, resolve_index
from analysis.errors import SpecError

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
