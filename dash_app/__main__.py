"""``python -m dash_app``: the same as ``stratascope``."""

from __future__ import annotations

import sys

from dash_app.cli import main

if __name__ == "__main__":
    sys.exit(main())
