"""The folder for screenshots of the browser tests.

``STRATASCOPE_PICTURES=docs/img`` renews the pictures in the documents. By default they go to a
temporary folder, so that a test run does not change the checkout.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

_named = os.environ.get("STRATASCOPE_PICTURES")
IMAGES = Path(_named or Path(tempfile.gettempdir()) / "stratascope-pictures")
IMAGES.mkdir(parents=True, exist_ok=True)
