"""Which learned lenses there are, and which belongs to a model. No torch here.

A lens is one safetensors file with a JSON document in its header. It lies in the package's own
folder or in ``lenses`` of the data folder, where training puts it; nothing else is looked at, so
no request can name a path. It belongs to a model by the fingerprint of its weights, never by name.
"""

from __future__ import annotations

import hashlib
import json
import logging
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from analysis import paths
from analysis.errors import AnalysisError, StoreError
from analysis.model import catalog
from analysis.model import fingerprint as fingerprint_module

#: Raised when what a file holds changes: older lenses are then refused, with their command.
FORMAT = 1
#: The decoder's name in every spec.
DECODER = "learned"
SHIPPED = Path(__file__).parent / "lenses"
#: Longest header read; a real one has some ten kilobytes.
_LONGEST_HEADER = 1 << 20
_log = logging.getLogger("stratascope.lenses")


@dataclass(frozen=True, slots=True)
class RowFigures:
    """How two lenses read one row of the same text.

    Attributes:
        row: Which row.
        logit_kl: Mean KL(model's output || logit lens), nats a token.
        learned_kl: Mean KL(model's output || learned lens), nats a token.
        logit_top1: Share of tokens at which the logit lens names the model's own top token.
        learned_top1: The same of the learned lens.
    """

    row: int
    logit_kl: float
    learned_kl: float
    logit_top1: float
    learned_top1: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A lens beside the logit lens on one text that it was not trained on.

    Attributes:
        text: What the text is, for a person.
        tokens: How many positions were judged.
        rows: One entry for each row before the last.
    """

    text: str
    tokens: int
    rows: tuple[RowFigures, ...]

    @property
    def better(self) -> int:
        """Rows at which the learned lens has the smaller KL."""
        return sum(row.learned_kl < row.logit_kl for row in self.rows)


@dataclass(frozen=True, slots=True)
class LensInfo:
    """A learned lens, as its file's header describes it.

    Attributes:
        path: Its file.
        model: What the model was called in training.
        fingerprints: Of that model's weights in each dtype; one of them is the model's own.
        layers, d_model, vocab: Of that model.
        rank: Of each row's translator; 0: a full matrix.
        nbytes: Of the file.
        digest: SHA-256 of its numbers: two lenses with the same digest read alike.
        text: What it was trained on.
        tokens: Training positions.
        steps, seed: Of the training.
        command: What made it.
        evaluations: On text that was held out.
    """

    path: Path
    model: str
    fingerprints: tuple[str, ...]
    layers: int
    d_model: int
    vocab: int
    rank: int
    nbytes: int
    digest: str
    text: str
    tokens: int
    steps: int
    seed: int
    command: str
    evaluations: tuple[Evaluation, ...]

    @property
    def shipped(self) -> bool:
        """Whether it came with the package."""
        return self.path.parent == SHIPPED

    @property
    def shape(self) -> str:
        """Its kind in a few words."""
        return f"rank {self.rank}" if self.rank else "full matrices"


def own_folder() -> Path:
    """Where lenses trained here lie."""
    return paths.data_dir() / "lenses"


def available(model_name: str) -> LensInfo | None:
    """The learned lens of a model on offer, or None where there is none.

    Cheap: reads headers, and a file's numbers only when it is new. Never loads a model.

    Args:
        model_name: As the catalogue calls it.
    """
    if not _files():
        return None
    try:
        return of_fingerprint(fingerprint_module.fingerprint(catalog.offered(model_name)))
    except AnalysisError:
        return None


def of_fingerprint(fingerprint: str) -> LensInfo | None:
    """The lens of the model with this fingerprint; one trained here goes before a shipped one.

    Of several trained here the newest is taken.
    """
    return next((found for found in lenses() if fingerprint in found.fingerprints), None)


def lenses() -> tuple[LensInfo, ...]:
    """Every readable lens: trained here, newest first, then shipped."""
    found = []
    for path in _files():
        try:
            found.append(describe(path))
        except (StoreError, OSError) as error:
            _log.warning("the lens %s is left out: %s", path.name, error)
    return tuple(found)


def key_part(fingerprint: str, specs: Sequence[Any]) -> str:
    """What a memo's key needs besides fingerprint and specs: the lens, where one is asked for.

    Args:
        fingerprint: The model's.
        specs: Any specs; one that names the decoder "learned" anywhere in its fields counts.

    Returns:
        The lens's digest, or "none" where there is none; empty where no spec asks for it.
    """
    if not any(_names(asdict(spec)) for spec in specs):
        return ""
    found = of_fingerprint(fingerprint)
    return found.digest if found else "none"


def _names(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_names, value.values()))
    return value == DECODER or (isinstance(value, (tuple, list)) and DECODER in value)


def describe(path: Path) -> LensInfo:
    """A lens by its header.

    Raises:
        StoreError: If the file is no lens, or one of another format.
    """
    facts = path.stat()
    return _described(path, facts.st_size, facts.st_mtime_ns)


def _files() -> list[Path]:
    own = [path for path in own_folder().glob("*.safetensors") if path.is_file()]
    own.sort(key=lambda path: (-path.stat().st_mtime_ns, path.name))
    return [*own, *sorted(SHIPPED.glob("*.safetensors"))]


@lru_cache(maxsize=64)
def _described(path: Path, size: int, modified: int) -> LensInfo:
    try:
        with path.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            if length > _LONGEST_HEADER:
                raise StoreError(f"{path.name} has too long a header.", "It is no learned lens.")
            document = json.loads(json.loads(opened.read(length))["__metadata__"]["lens"])
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        return from_document(document, path, size, digest)
    except (ValueError, KeyError, TypeError, RecursionError, struct.error) as error:
        raise StoreError(
            f"{path.name} is no learned lens.", "Train one with 'stratascope lens train MODEL'."
        ) from error


def from_document(document: dict[str, Any], path: Path, size: int, digest: str) -> LensInfo:
    """Rebuild what ``as_document`` took apart.

    Raises:
        StoreError: If the format is another one.
    """
    values = dict(document)
    if values.pop("format") != FORMAT:
        raise StoreError(f"{path.name} has another version's format.", "Train the lens anew.")
    evaluations = tuple(
        Evaluation(part["text"], part["tokens"], tuple(RowFigures(**row) for row in part["rows"]))
        for part in values.pop("evaluations")
    )
    fingerprints = tuple(values.pop("fingerprints"))
    return LensInfo(
        path=path, nbytes=size, digest=digest, fingerprints=fingerprints,
        evaluations=evaluations, **values,
    )  # fmt: skip


def as_document(info: LensInfo) -> dict[str, Any]:
    """What of a lens goes into its file's header, as JSON values."""
    values = asdict(info)
    for name in ("path", "nbytes", "digest"):
        del values[name]
    return {"format": FORMAT, **values}
