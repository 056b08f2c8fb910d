"""The ledger: which identities hold on a model or run, and how closely."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.contract.results import Result
from analysis.contract.specs import Spec


@dataclass(frozen=True, slots=True)
class LedgerEntry(Result):
    """One identity.

    Attributes:
        number: Its number in the design's list, 1 to 8.
        name: What must hold.
        error: Largest relative error found: norm of the difference over the largest norm among
            the parts.
        tolerance: Largest error at which it counts as holding, for the model's dtype.
        note: What a reader should know: a sink's share, layers left out.
    """

    number: int
    name: str
    error: float
    tolerance: float
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether it holds; an error that is not a number does not."""
        return self.error <= self.tolerance


@dataclass(frozen=True, slots=True)
class Ledger(Result):
    """All identities of a model, or of one run.

    Attributes:
        entries: One for each identity.
        dtype: Dtype of the model's weights.
        exact: Whether sums are held to float32 tolerances; 16-bit and quantised weights are not.
    """

    entries: tuple[LedgerEntry, ...]
    dtype: str
    exact: bool

    @property
    def passed(self) -> bool:
        """Whether every identity holds within its tolerance."""
        return all(entry.passed for entry in self.entries)

    @property
    def largest_error(self) -> float:
        """The largest error of all entries."""
        return max(entry.error for entry in self.entries)

    @property
    def colour(self) -> str:
        """green: all hold; amber: they hold within 16-bit or quantised tolerances; red."""
        if not self.passed:
            return "red"
        return "green" if self.exact else "amber"


@dataclass(frozen=True, slots=True)
class LedgerSpec(Spec[Ledger]):
    """The identities of one run, attribution and flow at one position."""

    position: int = -1


@dataclass(frozen=True, slots=True)
class ModelLedgerSpec(Spec[Ledger]):
    """The identities of a model, measured on two short probes."""
