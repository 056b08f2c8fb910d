"""Time limits of tests: a busy machine is ten times slower than an idle one."""

from __future__ import annotations

PATIENCE_S = 180
PATIENCE_MS = 1000 * PATIENCE_S
