"""The folders for converted models and memoised results."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

APP = "stratascope"


def data_dir() -> Path:
    """Folder for converted models (``STRATASCOPE_DATA_DIR``, else the user's data folder)."""
    named = os.environ.get("STRATASCOPE_DATA_DIR")
    return Path(named) if named else Path(platformdirs.user_data_dir(APP, appauthor=False))


def cache_dir() -> Path:
    """Folder for the memo (``STRATASCOPE_CACHE_DIR``, else the user's cache folder)."""
    named = os.environ.get("STRATASCOPE_CACHE_DIR")
    return Path(named) if named else Path(platformdirs.user_cache_dir(APP, appauthor=False))
