"""Lenses on disk: safetensors and JSON, written whole or not at all."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from analysis.contract.results import ModelInfo
from analysis.errors import SpecError, StoreError
from analysis.learned import library
from analysis.learned.library import LensInfo
from analysis.learned.translators import (
    FullTranslator,
    LearnedLens,
    Lens,
    LogitLens,
    LowRankTranslator,
    Translator,
)
from analysis.model.handle import Model

#: How numbers are stored; the scales, few and of any size, stay float32.
STORED = torch.float16
_SCALES = ("scale_in", "scale_out")


def write(path: Path, tensors: dict[str, Tensor], document: Any, key: str) -> None:
    """Write one safetensors file with a JSON document in its header, whole or not at all.

    Raises:
        StoreError: If it can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.part")
    plain = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
    try:
        save_file(plain, half, metadata={key: json.dumps(document)})
        half.replace(path)
    except (SafetensorError, OSError) as error:
        half.unlink(missing_ok=True)
        raise StoreError(
            f"{path} can't be written ({error}).",
            "Free some space there; a training that was begun goes on by --resume.",
        ) from error


def read(path: Path, key: str) -> tuple[dict[str, Tensor], Any]:
    """What ``write`` wrote.

    Raises:
        StoreError: If it is something else.
    """
    try:
        with safe_open(path, "pt") as opened:
            document = json.loads(opened.metadata()[key])
            return {name: opened.get_tensor(name) for name in opened.keys()}, document  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise StoreError(f"{path} can't be read.", "Make it anew.") from error


def stored(lens: LearnedLens) -> dict[str, Tensor]:
    """The lens's numbers as they are stored: one array a name, rows stacked."""
    names = lens.translators[0].state_dict()
    return {
        name: torch.stack([part.state_dict()[name] for part in lens.translators]).to(
            torch.float32 if name in _SCALES else STORED
        )
        for name in names
    }


def restored(tensors: dict[str, Tensor]) -> LearnedLens:
    """A lens from what ``stored`` gave, computing in float32, and not to be trained.

    Raises:
        StoreError: If a number is NaN or infinite: what it reads would be nothing, drawn as tokens.
    """
    if not all(value.isfinite().all() for value in tensors.values()):
        raise StoreError(
            "The lens holds numbers that are not finite: its training ran away.",
            "Remove it, and train another with a smaller --rate.",
        )
    made: list[Translator] = []
    for row in range(len(tensors["scale_in"])):
        own = {name: value[row].float() for name, value in tensors.items()}
        part = _empty(own)
        part.load_state_dict(own)
        made.append(part)
    return LearnedLens(nn.ModuleList(made).requires_grad_(False))


def _empty(own: dict[str, Tensor]) -> Translator:
    scales = own["scale_in"], own["scale_out"]
    if "matrix" in own:
        return FullTranslator(*scales)
    return LowRankTranslator(*scales, len(own["down"]), torch.Generator())


def save_lens(lens: LearnedLens, info: LensInfo) -> LensInfo:
    """Write a lens where ``info.path`` says, and describe it as it lies there."""
    write(info.path, stored(lens), library.as_document(info), "lens")
    return library.describe(info.path)


def load_lens(info: LensInfo) -> LearnedLens:
    """The lens of a file; the last few are kept.

    Raises:
        StoreError: If its numbers are not those of its header.
    """
    return _loaded(info.path, info.digest, info.layers, info.d_model)


@lru_cache(maxsize=4)
def _loaded(path: Path, digest: str, layers: int, width: int) -> LearnedLens:
    tensors, _ = read(path, "lens")
    try:
        if tensors["scale_in"].shape != (layers, width):
            raise StoreError(f"{path.name} is not what its header says.", "Train the lens anew.")
        return restored(tensors)
    except (KeyError, RuntimeError, IndexError, TypeError) as error:
        raise StoreError(f"{path.name} is not whole.", "Train the lens anew.") from error


def lens_for(model: Model) -> LearnedLens:
    """The lens that belongs to a model.

    Raises:
        SpecError: If there is none.
    """
    info = library.of_fingerprint(model.info.fingerprint)
    if info is None:
        raise SpecError(
            f"There is no learned lens for {model.info.name}.",
            f"Train one with 'stratascope lens train {model.info.name}', "
            "or choose another decoder.",
        )
    require(info, model.info)
    return load_lens(info)


def lens_of(model: Model, decoder: str) -> Lens:
    """What comes before norm and unembedding with a decoder: the model's lens, or nothing.

    Raises:
        SpecError: If the decoder is "learned" and the model has no lens.
    """
    return lens_for(model) if decoder == library.DECODER else LogitLens()


def require(info: LensInfo, model: ModelInfo) -> None:
    """Refuse a lens that was fitted to another model.

    Raises:
        SpecError: Saying what differs.
    """
    for name in ("layers", "d_model", "vocab"):
        has, wanted = getattr(info, name), getattr(model, name)
        if has != wanted:
            raise SpecError(
                f"{info.path.name} was fitted to a model with {name} {has}; "
                f"{model.name} has {wanted}.",
                "Use the model that it was trained for, or train another lens.",
            )
    if model.fingerprint not in info.fingerprints:
        raise SpecError(
            f"{info.path.name} was fitted to other weights ({info.model}) than {model.name}'s.",
            f"Train one with 'stratascope lens train {model.name}'.",
        )
