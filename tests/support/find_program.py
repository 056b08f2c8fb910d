"""Find programs that tests start; ``tools`` installs them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path


def located(variable: str, names: Sequence[str]) -> str | None:
    """Path of the program that a variable names, else of the first name on PATH.

    Raises:
        FileNotFoundError: If the variable names a missing file.
    """
    named = os.environ.get(variable)
    if named:
        if Path(named).is_file():
            return named
        raise FileNotFoundError(f"{variable} names {named}, which does not exist.")
    return next((path for name in names if (path := shutil.which(name))), None)
