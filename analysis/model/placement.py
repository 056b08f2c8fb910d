"""The placement of a model's weights: dtype, device or devices, quantisation."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from analysis.errors import ModelLoadError, SpecError
from analysis.model import catalog

#: The setting of the device, for models whose entry has none.
SETTING = "STRATASCOPE_DEVICE"
#: The device name for all CUDA devices together; accelerate distributes the blocks.
SPREAD = "spread"


@dataclass(frozen=True, slots=True)
class Placement:
    """Dtype, device and quantisation of a model's weights.

    Attributes:
        dtype: Dtype of weights that are not quantised.
        device: Device of the token ids.
        spread: Whether blocks may be on several devices.
        quantise: "8bit", "4bit" or "".
    """

    dtype: torch.dtype
    device: torch.device
    spread: bool = False
    quantise: str = ""

    @property
    def where(self) -> str:
        """The device for ``memory.free``."""
        return SPREAD if self.spread else str(self.device)

    def options(self) -> dict[str, Any]:
        """The options for ``from_pretrained``.

        Raises:
            ModelLoadError: If bitsandbytes is needed and missing.
        """
        options: dict[str, Any] = {"dtype": self.dtype}
        if self.spread:
            every = range(torch.cuda.device_count())
            options["device_map"] = "auto"
            options["max_memory"] = {at: torch.cuda.mem_get_info(at)[0] for at in every}
        elif self.quantise:
            options["device_map"] = {"": self.device}
        if self.quantise:
            options["quantization_config"] = quantisation(self.quantise, self.dtype)
        return options


def choose(entry: catalog.Entry, dtype: Any = None, device: Any = None) -> Placement:
    """The placement by the arguments, else the entry, else the settings, else the best device.

    Raises:
        SpecError: If dtype or device are not known, or this machine lacks the device.
    """
    plain = getattr(torch, catalog.dtype_of(entry, dtype))
    wanted = device or entry.device or os.environ.get(SETTING) or None
    if wanted != SPREAD:
        return Placement(plain, pick_device(wanted), quantise=entry.quantise)
    several = torch.cuda.device_count() > 1
    return Placement(plain, pick_device(None), spread=several, quantise=entry.quantise)


def pick_device(device: Any = None) -> torch.device:
    """The named device; without a name CUDA if available, else the CPU.

    Raises:
        SpecError: If there is no such device on this machine.
    """
    if device is None or device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if str(device).startswith("mps"):
        raise SpecError(
            "MPS has no 64-bit floats, which the identities and many measures need.",
            "Omit the device, or use cpu.",
        )
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise SpecError(
            f"This machine has no device {str(device)!r}.", "Omit the device, or use cpu."
        ) from error
    return place


def quantisation(kind: str, dtype: torch.dtype) -> Any:
    """The configuration that quantises linear layers on loading.

    8 bits: LLM.int8() (Dettmers 2022, arXiv 2208.07339); 4: NF4 (Dettmers 2023, 2305.14314).

    Raises:
        ModelLoadError: If bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise ModelLoadError(
            f"Quantising to {kind} needs the package bitsandbytes, which is not installed.",
            "Install the extra 'quantise' (.venv/bin/pip install -e '.[quantise]'), "
            "or load the model without quantise.",
        )
    from transformers import BitsAndBytesConfig

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of every cast
    factory: Any = BitsAndBytesConfig
    if kind == "8bit":
        return factory(load_in_8bit=True)
    return factory(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def settle(model: Any, placement: Placement) -> None:
    """Move a model to its device, unless it was loaded there.

    Raises:
        ModelLoadError: If parts of it stayed on disk or in RAM.
    """
    placed = getattr(model, "hf_device_map", None)
    left = {str(where) for where in (placed or {}).values()} & {"disk", "cpu", "meta"}
    if placement.spread and left:
        raise ModelLoadError(
            "The model does not fit on the devices together.",
            "Choose a smaller dtype, quantise 4bit, or a smaller model.",
        )
    if placed is None and not getattr(model, "is_quantized", False):
        model.to(placement.device)
