"""Learned lenses on disk: safetensors with a JSON document in the header, written atomically."""

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

#: The dtype on disk; the scales stay float32, as their range is larger.
STORED = torch.float16
_SCALES = ("scale_in", "scale_out")


def write(path: Path, tensors: dict[str, Tensor], document: Any, key: str) -> None:
    """Write one safetensors file with a JSON document in its header, atomically.

    Raises:
        StoreError: If the file can't be written.
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
            "Free some space there. Continue an interrupted training with --resume.",
        ) from error


def read(path: Path, key: str) -> tuple[dict[str, Tensor], Any]:
    """The tensors and the document of a file from ``write``.

    Raises:
        StoreError: If the file is not one.
    """
    try:
        with safe_open(path, "pt") as opened:
            document = json.loads(opened.metadata()[key])
            return {name: opened.get_tensor(name) for name in opened.keys()}, document  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise StoreError(f"{path} can't be read.", "Create it again.") from error


def stored(lens: LearnedLens) -> dict[str, Tensor]:
    """The lens's parameters as stored: one tensor per name, rows stacked."""
    names = lens.translators[0].state_dict()
    return {
        name: torch.stack([part.state_dict()[name] for part in lens.translators]).to(
            torch.float32 if name in _SCALES else STORED
        )
        for name in names
    }


def restored(tensors: dict[str, Tensor]) -> LearnedLens:
    """The lens of ``stored`` tensors, in float32 and without gradients.

    Raises:
        StoreError: If a parameter is NaN or infinite.
    """
    if not all(value.isfinite().all() for value in tensors.values()):
        raise StoreError(
            "The lens has parameters that are not finite: its training diverged.",
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
    """Write a lens to ``info.path`` and describe the file."""
    write(info.path, stored(lens), library.as_document(info), "lens")
    return library.describe(info.path)


def load_lens(info: LensInfo) -> LearnedLens:
    """The lens of a file; the last four are cached.

    Raises:
        StoreError: If its parameters do not match its header.
    """
    return _loaded(info.path, info.digest, info.layers, info.d_model)


@lru_cache(maxsize=4)
def _loaded(path: Path, digest: str, layers: int, width: int) -> LearnedLens:
    tensors, _ = read(path, "lens")
    try:
        if tensors["scale_in"].shape != (layers, width):
            raise StoreError(f"{path.name} does not match its header.", "Train the lens again.")
        return restored(tensors)
    except (KeyError, RuntimeError, IndexError, TypeError) as error:
        raise StoreError(f"{path.name} is incomplete.", "Train the lens again.") from error


def lens_for(model: Model) -> LearnedLens:
    """The learned lens of a model.

    Raises:
        SpecError: If it has none.
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
    """The lens of a decoder: the model's learned lens, or the logit lens.

    Raises:
        SpecError: If the decoder is "learned" and the model has no lens.
    """
    return lens_for(model) if decoder == library.DECODER else LogitLens()


def require(info: LensInfo, model: ModelInfo) -> None:
    """Refuse a lens that was fitted to another model.

    Raises:
        SpecError: Naming the difference.
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
