"""The ledger: the identities of a model or a run, with their errors."""

from __future__ import annotations

from dataclasses import dataclass, field

from analysis.contract.choices import about
from analysis.contract.specs import Result, Spec


@dataclass(frozen=True, slots=True)
class LedgerEntry(Result):
    """One identity.

    Attributes:
        number: Its number, 1 to 8.
        name: The identity in words.
        error: Largest relative error: norm of the difference over the largest norm among the
            parts.
        tolerance: Largest error at which it holds, for the model's dtype.
        note: Details, such as a sink's share or layers without attention.
    """

    number: int
    name: str
    error: float
    tolerance: float
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether it holds; it does not if the error is NaN."""
        return self.error <= self.tolerance


@dataclass(frozen=True, slots=True)
class Ledger(Result):
    """The identities of a model, or of one run.

    Attributes:
        entries: One per identity.
        dtype: Dtype of the model's weights.
        exact: Whether float32 tolerances apply: not for 16-bit and quantised weights.
    """

    entries: tuple[LedgerEntry, ...]
    dtype: str
    exact: bool

    @property
    def passed(self) -> bool:
        """Whether every identity holds."""
        return all(entry.passed for entry in self.entries)

    @property
    def largest_error(self) -> float:
        """The largest error of all entries."""
        return max(entry.error for entry in self.entries)

    @property
    def colour(self) -> str:
        """green: all hold; amber: all hold within 16-bit or quantised limits; red: one fails."""
        if not self.passed:
            return "red"
        return "green" if self.exact else "amber"


@dataclass(frozen=True, slots=True)
class LedgerSpec(Spec[Ledger]):
    """The identities of one run; attribution and flow are checked at one position."""

    position: int = field(
        default=-1, metadata=about("The position whose attribution and flow are checked.")
    )


@dataclass(frozen=True, slots=True)
class ModelLedgerSpec(Spec[Ledger]):
    """The identities of a model, measured on two short probes."""
