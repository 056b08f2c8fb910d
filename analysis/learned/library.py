"""The learned lenses on disk, and which of them fits a model. Importable without torch.

A lens is one safetensors file with a JSON document in its header. It is in the package's own
folder, or in ``lenses`` of the data folder, where training writes it. No other folder is read, so
a request can't name a path. The fingerprint of the model's weights selects the lens, not its name.
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
from analysis.tracing.interventions import SteerDirection

#: Version of the file layout; a lens of another version is refused.
FORMAT = 1
#: The decoder's name in every spec.
DECODER = "learned"
SHIPPED = Path(__file__).parent / "lenses"
#: Largest header to read, bytes; a real one has about ten kilobytes.
_LONGEST_HEADER = 1 << 20
_log = logging.getLogger("stratascope.lenses")


@dataclass(frozen=True, slots=True)
class RowFigures:
    """The learned lens and the logit lens at one row, on the same text.

    Attributes:
        row: The residual row.
        logit_kl: Mean KL(model's output || logit lens), nats a token.
        learned_kl: Mean KL(model's output || learned lens), nats a token.
        logit_top1: Share of tokens whose top token in the logit lens is the model's own, 0 to 1.
        learned_top1: The same for the learned lens.
    """

    row: int
    logit_kl: float
    learned_kl: float
    logit_top1: float
    learned_top1: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A learned lens compared with the logit lens on one held-out text.

    Attributes:
        text: Title of the text.
        tokens: Number of positions.
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
    """A learned lens, as described by its file's header.

    Attributes:
        path: Its file.
        model: Name of its model during training.
        fingerprints: Fingerprints of that model's weights, one per dtype.
        layers, d_model, vocab: Sizes of that model.
        rank: Rank of each row's translator; 0 for a full matrix.
        nbytes: Size of the file.
        digest: SHA-256 of its parameters.
        text: Title of the training text.
        tokens: Number of training positions.
        steps, seed: Number of training steps, and the seed.
        command: The command that trained it.
        evaluations: Comparisons with the logit lens on held-out text.
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
        """Whether it is part of the package."""
        return self.path.parent == SHIPPED

    @property
    def shape(self) -> str:
        """Its rank, as text."""
        return f"rank {self.rank}" if self.rank else "full matrices"


def own_folder() -> Path:
    """The folder of lenses trained on this machine."""
    return paths.data_dir() / "lenses"


def available(model_name: str) -> LensInfo | None:
    """The learned lens of a catalogue model, or None.

    Cheap: it reads headers, hashes only new files, and never loads a model.

    Args:
        model_name: Its name in the catalogue.
    """
    if not _files():
        return None
    try:
        return of_fingerprint(catalog.fingerprint(catalog.offered(model_name)))
    except AnalysisError:
        return None


def of_fingerprint(fingerprint: str) -> LensInfo | None:
    """The lens of the model with this fingerprint: the newest trained here, else a shipped one."""
    return next((found for found in lenses() if fingerprint in found.fingerprints), None)


def lenses() -> tuple[LensInfo, ...]:
    """Every readable lens: those trained here, newest first, then the shipped ones."""
    found = []
    for path in _files():
        try:
            found.append(describe(path))
        except (StoreError, OSError) as error:
            _log.warning("the lens %s is skipped: %s", path.name, error)
    return tuple(found)


def key_part(fingerprint: str, specs: Sequence[Any]) -> str:
    """The part of a memo key that depends on the learned lens and on saved directions.

    Args:
        fingerprint: The model's fingerprint.
        specs: Any specs; a spec uses the lens if any of its fields names the decoder "learned", and
            a direction if one of its edits steers by it.

    Returns:
        The lens's digest, "none" if the model has no lens, or "" if no spec uses it; then the
        digest of each direction.
    """
    edits = (edit for spec in specs for edit in getattr(spec, "edits", ()))
    steered = sorted({edit.name for edit in edits if isinstance(edit, SteerDirection)})
    if steered:
        from analysis.tracing.directions import digest

        directions = "".join(map(digest, steered))
    else:
        directions = ""
    if not any(_names(asdict(spec)) for spec in specs):
        return directions
    found = of_fingerprint(fingerprint)
    return (found.digest if found else "none") + directions


def _names(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_names, value.values()))
    return value == DECODER or (isinstance(value, (tuple, list)) and DECODER in value)


def describe(path: Path) -> LensInfo:
    """A lens as described by its header.

    Raises:
        StoreError: If the file is not a lens, or has another format.
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
                raise StoreError(f"{path.name} has too long a header.", "Remove the file.")
            document = json.loads(json.loads(opened.read(length))["__metadata__"]["lens"])
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        return from_document(document, path, size, digest)
    except (ValueError, KeyError, TypeError, RecursionError, struct.error) as error:
        raise StoreError(
            f"{path.name} is not a learned lens.", "Train one with 'stratascope lens train MODEL'."
        ) from error


def from_document(document: dict[str, Any], path: Path, size: int, digest: str) -> LensInfo:
    """The inverse of ``as_document``.

    Raises:
        StoreError: If the document has another format.
    """
    values = dict(document)
    if values.pop("format") != FORMAT:
        raise StoreError(f"{path.name} has the format of another version.", "Train the lens again.")
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
    """The JSON document of a lens for its file's header."""
    values = asdict(info)
    for name in ("path", "nbytes", "digest"):
        del values[name]
    return {"format": FORMAT, **values}
