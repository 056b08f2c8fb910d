"""Change a forward pass at chosen places: the interventions of ``trace`` and ``generate``."""

from analysis.tracing.interventions import (
    Ablate,
    HoldPatterns,
    Inject,
    Intervention,
    KnockOut,
    Patch,
    PatchPrompt,
    Steer,
    SteerDirection,
    SteerPrompts,
    SteerTokens,
)

__all__ = [
    "Ablate",
    "HoldPatterns",
    "Inject",
    "Intervention",
    "KnockOut",
    "Patch",
    "PatchPrompt",
    "Steer",
    "SteerDirection",
    "SteerPrompts",
    "SteerTokens",
]
