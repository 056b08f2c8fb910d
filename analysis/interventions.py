"""Change a forward pass at chosen places: the interventions of ``trace`` and ``generate``."""

from analysis.tracing.interventions import (
    Ablate,
    Inject,
    Intervention,
    KnockOut,
    Patch,
    PatchPrompt,
    Steer,
    SteerTokens,
)

__all__ = [
    "Ablate",
    "Inject",
    "Intervention",
    "KnockOut",
    "Patch",
    "PatchPrompt",
    "Steer",
    "SteerTokens",
]
