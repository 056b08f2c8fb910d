"""The text of components and figures, as one string to search."""

from __future__ import annotations

import json
from typing import Any

from plotly.io.json import to_json_plotly


def text(*parts: Any) -> str:
    """JSON of components, figures or lists of them, with every character written as itself."""
    return json.dumps(json.loads(to_json_plotly(list(parts))), ensure_ascii=False)
