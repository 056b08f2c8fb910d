"""Models: the catalogue, loading, the residual stream, the readout."""

import sys

# The package kernels fetches code from a hub and runs it, and transformers uses it if it is there.
sys.modules.setdefault("kernels", None)  # type: ignore[arg-type]
