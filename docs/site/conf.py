"""Settings of the documentation site: ``make docs`` builds it with Sphinx.

The sources are the Markdown files of the repository and the docstrings of ``analysis``. The built
site loads nothing from a network.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]

project = "Stratascope"
author = "the Stratascope authors"
copyright = author
root_doc = "docs/index"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/**",
    "analysis/**/README.md",
]
exclude_patterns = ["**/.*", "build"]
smartquotes = False  # "' Paris'" stays as the page writes it

myst_heading_anchors = 4
myst_links_external_new_tab = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = "Stratascope"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"sidebar_hide_name": False}

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")


def link_folders(app: Sphinx, name: str, text: list[str]) -> None:
    """Turn a link to a folder into a link to its page, or into text if it has none.

    On a code host such a link opens the folder. The site has pages only.
    """

    def page(match: re.Match[str]) -> str:
        label, target, anchor = match.groups()
        folder = source.parent / target
        if not folder.is_dir():
            return match.group(0)
        index = folder / "README.md"
        return (
            f"[{label}]({target.rstrip('/')}/README.md{anchor or ''})" if index.is_file() else label
        )

    source = Path(app.env.doc2path(name))
    text[0] = _LINK.sub(page, text[0])


def list_names(_app: Sphinx, name: str, text: list[str]) -> None:
    """Fill in what the page of the package does not list by hand: all else comes from the code."""
    if name != "docs/python":
        return
    import analysis
    from analysis.registry import TECHNIQUES

    listed = set(re.findall(r"analysis\.(\w+)", text[0]))
    other = [
        f".. auto{'class' if one[0].isupper() else 'function'}:: analysis.{one}"
        for one in analysis.__all__
        if one not in listed
    ]
    results = {f"{one.result.__module__}.{one.result.__qualname__}": one for one in TECHNIQUES}
    lists = {"other functions": other, "results": [f".. autoclass:: {one}" for one in results]}
    for mark, lines in lists.items():
        block = "\n".join(["```{eval-rst}", *lines, "```"])
        if mark == "other functions":
            block = f"## Other functions\n\n{block}"
        text[0] = text[0].replace(f"<!-- {mark} -->", block if lines else "")


def redirect_from_the_top(app: Sphinx, error: Exception | None) -> None:
    """Write ``index.html`` at the top of the site: it opens the first page."""
    if error is None and app.builder.format == "html":
        target = f"{root_doc}.html"
        Path(app.outdir, "index.html").write_text(
            f'<!doctype html><meta charset="utf-8"><title>{project}</title>'
            f'<meta http-equiv="refresh" content="0; url={target}">'
            f'<a href="{target}">{project}</a>',
            encoding="utf-8",
        )


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the functions above."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    app.connect("source-read", link_folders)
    app.connect("source-read", list_names)
    app.connect("build-finished", redirect_from_the_top)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
