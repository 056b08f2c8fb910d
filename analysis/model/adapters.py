"""LoRA adapters (Hu et al. 2021, arXiv 2106.09685): find, check, and apply one with peft.

The module can be imported without torch or peft. peft's layers stay in the model, so the
observed forward pass is the adapted model's own. Only the embedding and the unembedding, which
are read as matrices, are replaced by plain layers with the merged weights.
"""

from __future__ import annotations

import copy
import json
import re
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from analysis.errors import ModelLoadError
from analysis.model import hub, untrusted

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
#: A weight's name and its two shapes in torch's message.
_SIZES = re.compile(
    r"size mismatch for (\S+): copying a param with shape torch\.Size\(\[(.*?)\]\) from "
    r"checkpoint, the shape in current model is torch\.Size\(\[(.*?)\]\)"
)
#: Largest configuration, bytes.
_MOST_BYTES = 1 << 20
_SAVE_AGAIN = "Save the adapter again with peft's save_pretrained."


def split(source: str) -> tuple[str, str]:
    """Split ``base+adapter`` in two; a path that exists is never split."""
    base, plus, adapter = source.rpartition("+")
    try:
        whole = not plus or Path(source).expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        whole = True
    if whole or not base or not adapter:
        return source, ""
    path = Path(adapter).expanduser()
    return base.strip(), str(path.absolute()) if path.is_dir() else adapter.strip()


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def base_of(folder: Path) -> str:
    """The base model named in the adapter's configuration, with its revision if it names one.

    Raises:
        ModelLoadError: If it names none.
    """
    values = _configuration(folder)
    base, revision = values.get("base_model_name_or_path"), values.get("revision")
    if not isinstance(base, str) or not base:
        raise ModelLoadError(
            f"{folder / CONFIG} names no base model.", "Name both, as base+adapter."
        )
    pinned = isinstance(revision, str) and revision and not Path(base).expanduser().exists()
    return f"{base}@{revision}" if pinned else base


def identity(adapter: str) -> list[Any]:
    """What identifies an adapter's weights, as JSON values."""
    path = Path(adapter)
    if path.is_dir():
        return [hub.content(path)]
    _require_hub_id(adapter)
    return [hub.repository(adapter), hub.commit(adapter, CONFIG)]


def folder_of(adapter: str) -> Path:
    """The adapter's folder, with its files checked; a hub adapter is downloaded first.

    Raises:
        ModelLoadError: If it is not a complete adapter saved as safetensors.
    """
    path = Path(adapter)
    if not path.is_dir():
        _require_hub_id(adapter)
    folder = path if path.is_dir() else hub.snapshot(adapter, CONFIG)
    if not (folder / CONFIG).is_file():
        raise ModelLoadError(f"{folder} has no {CONFIG}, so it is not an adapter.", _SAVE_AGAIN)
    if not (folder / WEIGHTS).is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        reason = "stores its weights as pickle, which can run code when loaded" if pickled else (
            f"has a configuration but not the weights {WEIGHTS}"
        )  # fmt: skip
        raise ModelLoadError(f"{folder} {reason}.", _SAVE_AGAIN)
    from analysis.model import trial

    trial.check_files(folder)
    return folder


def require_peft() -> None:
    """Check that peft is installed.

    Raises:
        ModelLoadError: With the command that installs it.
    """
    if find_spec("peft") is None:
        raise ModelLoadError(
            "Adapters need the package peft, which is not installed.",
            "Install the extra 'lora' (.venv/bin/pip install -e '.[lora]'), "
            "or name the base model alone.",
        )


def apply(model: Any, folder: Path) -> Any:
    """Put an adapter into the layers of its base model.

    Args:
        model: The base; changed in place.
        folder: From ``folder_of``.

    Raises:
        ModelLoadError: If the adapter is not LoRA, or does not fit the base.
    """
    require_peft()
    from peft import PeftConfig, PeftModel

    from analysis.model.transformers_io import without_progress_bars

    kind = _configuration(folder).get("peft_type")
    if kind != "LORA":
        raise ModelLoadError(
            f"The adapter in {folder} has the type {str(kind)[:40]}, not LORA.",
            "Use a LoRA adapter.",
        )
    config = PeftConfig.from_pretrained(str(folder))
    config.inference_mode = True
    _try_patterns(config, model)
    try:
        with without_progress_bars(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            adapted: Any = PeftModel.from_pretrained(model, str(folder), config=config)
    except (RuntimeError, ValueError, KeyError) as error:
        raise _size_mismatch(model, folder, str(error)) or _misfit(folder, str(error)) from error
    for warning in caught:  # peft only warns if a layer's weights are missing
        if "missing adapter keys" in str(warning.message):
            raise _misfit(folder, str(warning.message))
    base = adapted.get_base_model()
    _merge_ends(base)
    return base


def _try_patterns(config: Any, model: Any) -> None:
    """Match the adapter's regular expressions once, so that peft meets none that never ends."""
    named = config.target_modules, config.exclude_modules
    patterns = [pattern for pattern in named if isinstance(pattern, str)]
    patterns += [rf"(.*\.)?({key})$" for key in (*config.rank_pattern, *config.alpha_pattern)]
    if patterns:
        untrusted.try_patterns(patterns, [name for name, _ in model.named_modules()])


def _configuration(folder: Path) -> dict[str, Any]:
    try:
        size = (folder / CONFIG).stat().st_size
        if size > _MOST_BYTES:
            raise ModelLoadError(
                f"{folder / CONFIG} has {size:,} bytes; at most {_MOST_BYTES:,} are read.",
                "Choose another adapter.",
            )
        values: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        return dict(values)
    except (OSError, ValueError, TypeError) as error:
        raise ModelLoadError(f"{folder / CONFIG} can't be read.", _SAVE_AGAIN) from error


def _require_hub_id(adapter: str) -> None:
    if Path(adapter).is_absolute() or adapter.startswith(".") or "/" not in adapter:
        raise ModelLoadError(f"There is no adapter {adapter}.", "Name its folder or hub id.")


def _size_mismatch(model: Any, folder: Path, reason: str) -> ModelLoadError | None:
    """The error for weights of other sizes; None if ``reason`` names none."""
    found = [
        (name, *(tuple(map(int, re.findall(r"\d+", shape))) for shape in shapes))
        for name, *shapes in _SIZES.findall(reason)
    ]
    if not found:
        return None
    name, own, base = found[0]
    vocab = int(model.get_input_embeddings().weight.shape[0])
    for other, *sizes in found:
        if sizes[0][1:] == sizes[1][1:] and sizes[1][0] == vocab:
            return ModelLoadError(
                f"The adapter in {folder} has {sizes[0][0]} tokens and its base has {vocab} "
                f"(size mismatch of {other}): it was trained with tokens of its own.",
                f"Call resize_token_embeddings({sizes[0][0]}) on the base, save it with the "
                "adapter's tokenizer, and name that folder as the base.",
            )
    return ModelLoadError(
        f"The adapter in {folder} does not fit its base: size mismatch of {name}, {list(own)} in "
        f"the adapter and {list(base)} in the base ({len(found)} weights in all).",
        "Name the base that it was trained on, as base+adapter.",
    )


def _misfit(folder: Path, reason: str) -> ModelLoadError:
    return ModelLoadError(
        f"The adapter in {folder} does not fit its base: {reason.splitlines()[0][:200]}",
        "Name the base that it was trained on, as base+adapter.",
    )


def _merge_ends(model: Any) -> None:
    """Replace an adapted embedding and unembedding by plain layers with the merged weights."""
    before, after = model.get_input_embeddings(), model.get_output_embeddings()
    if not _is_plain(before):
        model.set_input_embeddings(_merged(before))
    if not _is_plain(after):
        model.set_output_embeddings(_merged(after))


def _is_plain(module: Any) -> bool:
    return module is None or not any(True for _ in module.children())


def _merged(layer: Any) -> Any:
    if hasattr(layer, "modules_to_save"):  # a trained copy replaces the layer
        return layer.modules_to_save[layer.active_adapters[0]]
    own = copy.deepcopy(layer)  # merging must not change a weight tied to the other end
    own.merge()
    return own.get_base_layer()
