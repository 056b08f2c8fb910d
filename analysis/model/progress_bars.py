"""Hide transformers' own progress bars: progress goes through ``analysis.contract.progress``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging as _logging

logging: Any = _logging  # transformers types only some of it


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """No progress bars and no advice from transformers inside this block; errors still show."""
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
