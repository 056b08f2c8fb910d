"""The base classes of specs and results, tokens, the description of a model, and the memo's key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from importlib import import_module
from os import PathLike
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from analysis.contract.arguments import convert_fields, whole_number
from analysis.errors import SpecError

#: Version of the meaning and layout of results. Memo entries of another version are not read.
SCHEMA = 10

Answer_co = TypeVar("Answer_co", covariant=True)


class Spec(Generic[Answer_co]):
    """Base of all specs: frozen, hashable inputs. The answer to a ``Spec[Grid]`` is a ``Grid``.

    A spec contains only what changes the answer, so that users with equal requests share one
    computation. Its fields are converted to their annotated types: numpy integers become int,
    lists become tuples, and other types are refused.
    """

    __slots__ = ()
    types_by_name: ClassVar[dict[str, type[Any]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Spec.types_by_name[cls.__name__] = cls
        own = getattr(cls, "__post_init__", None)
        if getattr(cls.__dict__.get("__post_init__"), "converts", False):
            return  # a dataclass with slots is a second class with the same members

        def converted(self: Any) -> None:
            """Convert every field to its annotated type, then run the spec's own checks."""
            convert_fields(self)
            if own is not None:
                own(self)

        converted.converts = True  # type: ignore[attr-defined]
        cls.__post_init__ = converted  # type: ignore[attr-defined]

    @classmethod
    def from_options(cls, **options: Any) -> Self:
        """A spec from the options that a user named. A default may depend on other options."""
        return cls(**options)


def resolve_index(name: str, value: int, size: int) -> int:
    """Turn an index, possibly counted from the end, into one from the start.

    Raises:
        SpecError: If it is out of range, or not a whole number.
    """
    value = whole_number(name, value)
    if not -size <= value < size:
        raise SpecError(
            f"{name} {value} does not exist.", f"Use {0} to {size - 1}, or {-size} to -1."
        )
    return value % size


def cache_key(fingerprint: str, *specs: Spec[Any]) -> str:
    """The memo's key of an answer.

    Args:
        fingerprint: Identifies the model's weights, revision and dtype.
        *specs: The request. A spec's ``model`` field is left out: the fingerprint replaces it.

    Returns:
        64 hexadecimal digits: SHA-256 of canonical JSON. It never contains prompt text.
    """
    return _cache_key(SCHEMA, fingerprint, specs)


@lru_cache(maxsize=1024)
def _cache_key(schema: int, fingerprint: str, specs: tuple[Spec[Any], ...]) -> str:
    parts: list[Any] = [schema, fingerprint]
    for spec in specs:
        values = asdict(cast(Any, spec))
        values.pop("model", None)
        parts.append([type(spec).__name__, values])
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def as_tuple(values: Any) -> tuple[int, ...]:
    """One whole number, several, or none, as a tuple.

    Raises:
        SpecError: If a value is not a whole number.
    """
    if values is None:
        return ()
    values = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        return (whole_number("The value", values),)
    return tuple(whole_number("A value", value) for value in values)


Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class Result:
    """Base of all results: frozen dataclasses of numpy arrays, numbers and text.

    ``analysis.codec`` stores the name of the class. Only classes in ``types_by_name`` are ever
    created from stored bytes.
    """

    __slots__ = ()
    types_by_name: ClassVar[dict[str, type[Any]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Result.types_by_name[cls.__name__] = cls

    def as_dict(self) -> dict[str, Any]:
        """Its values by name, for JSON."""
        return {one.name: getattr(self, one.name) for one in fields(cast(Any, self))}

    def to_dataframe(self, tokens: Sequence[Token] = (), sheet: str = "") -> Any:
        """One of its tables as a pandas data frame; ``attrs["units"]`` has the units of columns.

        Args:
            tokens: [pos] of its run (``trace.tokens``): columns of positions then get a column
                with the tokens' texts.
            sheet: The table's name; the main table unless given. ``analysis.tables`` lists them.

        Raises:
            MissingPackageError: If pandas is not installed.
            SpecError: If there is no such table.
        """
        return _exporting("data_frame")(self, tokens, sheet)

    def save(self, path: str | PathLike[str], recipe: Any = None) -> None:
        """Write it to a safetensors file, which ``analysis.load_result`` reads.

        Args:
            path: The file; an existing one is replaced.
            recipe: How it was computed (``analysis.recipe``), to keep with the numbers.

        Raises:
            StoreError: If the file can't be written.
        """
        _exporting("save")(self, path, recipe)

    def plot(
        self, tokens: Sequence[Token] = (), kind: str = "", *, theme: str = "light", **options: Any
    ) -> Any:
        """The picture that the page draws of it: a plotly figure; for a flow of shares an SVG.

        Args:
            tokens: [pos] of its run (``trace.tokens``): they name the positions.
            kind: Which picture, of results that have several: the main one unless given.
            theme: "light" or "dark"; for an SVG also "auto", which follows the notebook.
            **options: Of the picture, such as ``colour="entropy"`` of a grid. A wrong name raises
                an error that lists them.

        Raises:
            MissingPackageError: If the packages of the page are not installed.
            SpecError: If there is no such picture or option.
        """
        return _exporting("plot")(self, tokens, kind, theme=theme, **options)

    def _repr_html_(self) -> str:
        """A summary for notebooks: what it is, its numbers, and the first rows of its table."""
        return str(_exporting("summary")(self))


def _exporting(function: str) -> Any:
    """A function of ``analysis.export.results``, which lies above this module."""
    return getattr(import_module("analysis.export.results"), function)


def check_shape(name: str, array: NDArray[Any], shape: tuple[int | None, ...]) -> None:
    """Refuse an array whose shape is not ``shape`` (None: any size).

    Raises:
        ValueError: Always our own bug, never a user's mistake.
    """
    fits = array.ndim == len(shape) and all(
        wanted in (None, size) for wanted, size in zip(shape, array.shape, strict=True)
    )
    if not fits:
        raise ValueError(f"{name} has shape {array.shape}, not {shape}")


@dataclass(frozen=True, slots=True)
class Token(Result):
    """One token of a sequence or of the vocabulary.

    Attributes:
        id: Its number in the vocabulary.
        text: Its decoded text. A part of a character decodes to U+FFFD.
        raw: The tokenizer's own piece (``Ġthe``, ``▁the``, ``<0x0A>``).
        data: Its bytes, as hexadecimal digits; "" if they are unknown.
        special: Whether it is a special token (begin, end, a chat role).
    """

    id: int
    text: str
    raw: str
    data: str = ""
    special: bool = False


#: Part that a block may write -> its name in a sentence.
PART_NAMES = {
    "attention": "attention",
    "mlp": "MLP",
    "ssm": "mixer",
    "per_layer_embedding": "per-layer embedding",
    "whole_block": "whole block",
}
#: Those besides attention and MLP.
OTHER_PARTS = ("ssm", "per_layer_embedding", "whole_block")


@dataclass(frozen=True, slots=True)
class ModelInfo(Result):
    """The description of a model. Sizes are counts.

    Attributes:
        heads, kv_heads, d_head: Of its attention; the largest, where layers differ.
        fingerprint: Identifies its weights, revision and dtype.
        device: Its device; all of them, if blocks are on several.
        quantised: "8bit", "4bit", the name of another method, or "".
        adapter: A LoRA adapter's folder or hub id, or "".
        plain_norm: Whether the final norm has neither scale nor bias.
        attention_interface: "function" if attention is observed through transformers' attention
            interface, "hooks" if with hooks.
        parts: What its blocks write to the residual stream: keys of ``PART_NAMES``. "ssm" is a
            state space model, a convolution or linear attention, beside attention or in its place.
        split_heads: Whether the attention of every layer that has any can be split into heads.
        linear_head: Whether the logits are linear in the last state after the final norm.
    """

    name: str
    architecture: str
    layers: int
    heads: int
    kv_heads: int
    d_model: int
    d_head: int
    vocab: int
    max_positions: int
    parameters: int
    tied_embeddings: bool
    parallel_blocks: bool
    norm: str
    dtype: str
    device: str
    source: str
    revision: str
    fingerprint: str
    chat_template: bool = False
    attention_interface: str = "function"
    quantised: str = ""
    adapter: str = ""
    plain_norm: bool = False
    parts: tuple[str, ...] = ("attention", "mlp")
    split_heads: bool = True
    linear_head: bool = True

    @property
    def missing(self) -> tuple[str, ...]:
        """What the model does not offer, and why, one sentence each."""
        found = []
        if not self.heads:
            found.append(NO_ATTENTION)
        elif not self.split_heads:
            found.append(NO_HEADS)
        return (*found, NONLINEAR_HEAD) if not self.linear_head else tuple(found)


#: Reasons why a technique is not available.
NO_ATTENTION = (
    "This model has no attention patterns that can be read: its layers mix positions in another"
    " way, share one attention module, or can't be split into parts."
)
NO_HEADS = "This model's attention can't be split into heads."
NONLINEAR_HEAD = "This model's logits are not linear in its last state, so they have no parts."


@dataclass(frozen=True, slots=True)
class InfoSpec(Spec[ModelInfo]):
    """The description of a model: its sizes, norm, dtype, device and source."""
