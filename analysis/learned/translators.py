"""The lenses: one translator per row, then the model's own norm and unembedding; and their files.

Source: Belrose et al. 2023, arXiv 2303.08112, eq. 7 (affine translator before the logit lens) and
the residual parametrisation of its code: ``lens_row(h) = logits(h + W_row h + b_row)``, W and b 0
at the start, so that training begins at the logit lens. A file is safetensors, written atomically.
"""

from __future__ import annotations

import json
import pickle
import re
from abc import ABC, abstractmethod
from functools import lru_cache
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from analysis.contract.specs import ModelInfo
from analysis.errors import SpecError, StoreError
from analysis.learned import library
from analysis.learned.library import LensInfo
from analysis.model import hub
from analysis.model.handle import Model
from analysis.model.readout import Readout


class Translator(nn.Module, ABC):
    """One row's affine map into the last row's coordinates: ``h + scale_out (M (h/scale_in) + b)``.

    The two scales are constants of the row. They condition the training and let M be stored in
    16 bits. The map is affine, with W = ``scale_out M diag(1/scale_in)``.

    Args:
        scale_in: [d_model] typical size of each coordinate of the row's states.
        scale_out: [] typical root mean square of those states.
    """

    scale_in: Tensor
    scale_out: Tensor

    def __init__(self, scale_in: Tensor, scale_out: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale_in", scale_in.clone())
        self.register_buffer("scale_out", scale_out.clone())
        self.bias = nn.Parameter(torch.zeros(len(scale_in)))

    @abstractmethod
    def product(self, scaled: Tensor) -> Tensor:
        """M times scaled states, [n, d_model]."""

    def forward(self, states: Tensor) -> Tensor:
        """[n, d_model] states of the row, translated to the last row."""
        return states + self.scale_out * (self.product(states / self.scale_in) + self.bias)


class FullTranslator(Translator):
    """M is any matrix, 0 at the start."""

    def __init__(self, scale_in: Tensor, scale_out: Tensor) -> None:
        super().__init__(scale_in, scale_out)
        width = len(scale_in)
        self.matrix = nn.Parameter(torch.zeros(width, width))

    def product(self, scaled: Tensor) -> Tensor:
        """M times scaled states."""
        return scaled @ self.matrix.T


class LowRankTranslator(Translator):
    """M is ``up @ down``: up is 0 at the start, down random with rows of about unit length.

    Args:
        scale_in: [d_model].
        scale_out: [].
        rank: Rank of M.
        generator: Random generator for ``down``.
    """

    def __init__(
        self, scale_in: Tensor, scale_out: Tensor, rank: int, generator: torch.Generator
    ) -> None:
        super().__init__(scale_in, scale_out)
        width = len(scale_in)
        drawn = torch.randn(rank, width, generator=generator)
        self.down = nn.Parameter(drawn / width**0.5)
        self.up = nn.Parameter(torch.zeros(width, rank))

    def product(self, scaled: Tensor) -> Tensor:
        """M times scaled states."""
        return (scaled @ self.down.T) @ self.up.T


class Lens(ABC):
    """Decodes any row as the model decodes its last one."""

    @abstractmethod
    def translate(self, states: Tensor, row: int) -> Tensor:
        """States [n, d_model] of a row, translated to the last row."""

    def logits(self, readout: Readout, states: Tensor, row: int) -> Tensor:
        """Float32 logits [n, vocab] by the model's own final norm, unembedding and cap."""
        moved = self.translate(states.float(), row)
        return readout.logits(moved.to(readout.device, readout.output_rows.dtype))


class LogitLens(Lens):
    """No translation (nostalgebraist 2020)."""

    def translate(self, states: Tensor, row: int) -> Tensor:
        """The states unchanged."""
        return states


class LearnedLens(Lens):
    """A translator for each row before the last; the last row is the model's own output.

    Args:
        translators: One for each row before the last.
    """

    def __init__(self, translators: nn.ModuleList) -> None:
        self.translators = translators

    @property
    def rank(self) -> int:
        """Rank of the translators; 0 for full matrices."""
        first = self.translators[0]
        return first.down.shape[0] if isinstance(first, LowRankTranslator) else 0

    @property
    def d_model(self) -> int:
        """Width of the states."""
        first = self.translators[0]
        return len(first.bias) if isinstance(first, Translator) else 0

    def translate(self, states: Tensor, row: int) -> Tensor:
        """States [n, d_model], float32, of a row, translated to the last row."""
        if row == len(self.translators):
            return states
        moved: Tensor = self.translators[row](states)
        return moved


def new_lens(scale_in: Tensor, scale_out: Tensor, rank: int, seed: int) -> LearnedLens:
    """An untrained lens, equal to the logit lens.

    Args:
        scale_in: [row, d_model] typical sizes of the coordinates, rows before the last.
        scale_out: [row].
        rank: Rank of the translators; 0 for full matrices.
        seed: Seed of the low-rank translators' initial values.
    """
    generator = torch.Generator().manual_seed(seed)
    made: list[Translator] = [
        LowRankTranslator(inner, outer, rank, generator) if rank else FullTranslator(inner, outer)
        for inner, outer in zip(scale_in, scale_out, strict=True)
    ]
    return LearnedLens(nn.ModuleList(made))


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
        made.append(_empty(own))
        made[-1].load_state_dict(own)
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


#: Files of the package tuned-lens: ``lens(h) = logits(h + W h + b)``, a row's W and b by name.
CONFIG, PARAMETERS = "config.json", "params.pt"


def import_tuned_lens(model: Model, folder: str | PathLike[str]) -> LensInfo:
    """Make a tuned lens the learned lens of a model.

    It is written to the data folder in 16 bits; the decoder "learned" then uses it, as in the page.

    Args:
        model: The model that it was trained for.
        folder: With ``config.json`` and ``params.pt``, as tuned-lens saves it: on this machine, or
            on the hub, such as ``spaces/AlignmentResearch/tuned-lens/lens/MODEL`` (its authors').

    Returns:
        The description of the lens.

    Raises:
        StoreError: If the folder has no such files. Nothing in them is executed.
        ModelLoadError: If the hub has none, or can't be reached.
        SpecError: If the lens has the sizes of another model.
    """
    place = hub.folder_of(fspath(folder), (CONFIG, PARAMETERS))
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
    lens = LearnedLens(nn.ModuleList([_imported(state, row, width) for row in range(rows)]))
    return save_lens(lens, _info(model, place, config))


def _imported(state: dict[str, Tensor], row: int, width: int) -> FullTranslator:
    made = FullTranslator(torch.ones(width), torch.ones(()))
    made.matrix.data = state[f"{row}.weight"].float()
    made.bias.data = state.get(f"{row}.bias", made.bias.data).float()
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
        return dict(json.loads((place / CONFIG).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise _missing(place, CONFIG) from error


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
