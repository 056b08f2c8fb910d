"""Learned lenses from files of the package tuned-lens (Belrose et al. 2023, arXiv 2303.08112).

Its folder has ``config.json`` and ``params.pt``: for each row before the last a linear layer, as
``{row}.weight`` and ``{row}.bias``, with ``lens(h) = logits(h + W h + b)``. That is a full
translator with scales of 1.
"""

from __future__ import annotations

import json
import pickle
import re
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from analysis.errors import SpecError, StoreError
from analysis.learned import library
from analysis.learned.library import LensInfo
from analysis.learned.translators import FullTranslator, LearnedLens, save_lens
from analysis.model.handle import Model

CONFIG, PARAMETERS = "config.json", "params.pt"


def import_tuned_lens(model: Model, folder: str | PathLike[str]) -> LensInfo:
    """Make a tuned lens the learned lens of a model.

    It is written to the data folder, with weights in 16 bits. From then on the decoder "learned"
    uses it for this model, in the page too.

    Args:
        model: The model that it was trained for.
        folder: A folder with ``config.json`` and ``params.pt``, as tuned-lens saves it and as its
            authors share it (Hugging Face space ``AlignmentResearch/tuned-lens``, ``lens/MODEL``).

    Returns:
        The description of the lens.

    Raises:
        StoreError: If the folder has no such files. Nothing in them is executed.
        SpecError: If the lens has the sizes of another model.
    """
    place = Path(fspath(folder))
    config, state = _config(place), _parameters(place)
    rows, width = model.info.layers, model.info.d_model
    if config.get("lens_type", "linear_tuned_lens") != "linear_tuned_lens":
        raise StoreError(
            f"{place.name} is a lens of type {config['lens_type']!r}.",
            "Give a lens of type 'linear_tuned_lens'.",
        )
    shapes = {tuple(value.shape) for name, value in state.items() if name.endswith("weight")}
    found = {int(name.partition(".")[0]) for name in state}
    if shapes != {(width, width)} or found != set(range(rows)):
        raise SpecError(
            f"The lens has {len(found)} layers with weights of shape {sorted(shapes)};"
            f" {model.info.name} has {rows} layers and width {width}.",
            "Use the lens of this model.",
        )
    lens = LearnedLens(nn.ModuleList([_translator(state, row, width) for row in range(rows)]))
    return save_lens(lens, _info(model, place, config))


def _translator(state: dict[str, Tensor], row: int, width: int) -> FullTranslator:
    made = FullTranslator(torch.ones(width), torch.ones(()))
    bias = state.get(f"{row}.bias", torch.zeros(width))
    made.load_state_dict({
        "scale_in": torch.ones(width), "scale_out": torch.ones(()),
        "matrix": state[f"{row}.weight"].float(), "bias": bias.float(),
    })  # fmt: skip
    return made


def _info(model: Model, place: Path, config: dict[str, Any]) -> LensInfo:
    info = model.info
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{info.name}-tuned-lens").strip("-.")
    return LensInfo(
        path=library.own_folder() / f"{name}.safetensors", model=info.name,
        fingerprints=(info.fingerprint,), layers=info.layers, d_model=info.d_model,
        vocab=info.vocab, rank=0, nbytes=0, digest="",
        text=f"an imported tuned lens of {config.get('base_model_name_or_path', place.name)}",
        tokens=0, steps=0, seed=0, command="stratascope lens import", evaluations=(),
    )  # fmt: skip


def _config(place: Path) -> dict[str, Any]:
    try:
        found = json.loads((place / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _missing(place, CONFIG) from error
    if not isinstance(found, dict):
        raise _missing(place, CONFIG)
    return found


def _parameters(place: Path) -> dict[str, Tensor]:
    """The tensors by name; nothing else is read from the file."""
    try:
        found = torch.load(place / PARAMETERS, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise _missing(place, PARAMETERS) from error
    named = re.compile(r"\d+\.(weight|bias)")
    if not isinstance(found, dict) or not found or not all(map(named.fullmatch, found)):
        raise _missing(place, PARAMETERS)
    return found


def _missing(place: Path, name: str) -> StoreError:
    return StoreError(
        f"{place} has no {name} of a tuned lens.",
        f"Give a folder with {CONFIG} and {PARAMETERS}, as tuned-lens saves it.",
    )
