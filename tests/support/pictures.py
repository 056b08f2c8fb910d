"""Where browser tests leave their screenshots.

``STRATASCOPE_PICTURES=docs/img`` renews the ones that the documents show; else they go to a
temporary folder, so that a test run leaves the checkout as it was.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

_named = os.environ.get("STRATASCOPE_PICTURES")
IMAGES = Path(_named or Path(tempfile.gettempdir()) / "stratascope-pictures")
IMAGES.mkdir(parents=True, exist_ok=True)
