"""Copies third-party files of the page into the repository: ``python -m tools.page_assets``.

The page loads nothing from another site, so the style sheet of Bootstrap, the icons that the page
uses and the part of plotly.js that its charts need are files of this repository, each with its
licence. Each comes from the npm package of the version below. Needs npm.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from urllib.parse import quote

ROOT = Path(__file__).resolve().parents[1]
PLOTLY = "plotly.js-cartesian-dist-min"
#: Versions of the npm packages; plotly's is the one that plotly.py contains.
VERSIONS = {
    "bootstrap": "5.3.9",
    "bootstrap-icons": "1.13.2",
    PLOTLY: "4.1.1",
    "axe-core": "4.14.1",
}
#: (package, file in it, where it is copied to)
COPIES = (
    ("bootstrap", "dist/css/bootstrap.min.css", "assets/bootstrap/bootstrap.min.css"),
    ("bootstrap", "LICENSE", "assets/bootstrap/LICENSE-bootstrap.txt"),
    ("bootstrap-icons", "LICENSE", "assets/bootstrap/LICENSE-icons.txt"),
    (PLOTLY, "plotly-cartesian.min.js", "assets/plotly/plotly-cartesian.min.js"),
    (PLOTLY, "LICENSE", "assets/plotly/LICENSE-plotly.txt"),
    ("axe-core", "axe.min.js", "tests/support/axe/axe.min.js"),
    ("axe-core", "LICENSE", "tests/support/axe/LICENSE.txt"),
)
#: The icons that the page uses.
ICONS = (
    "arrows-angle-contract", "arrows-angle-expand", "arrow-counterclockwise", "arrow-clockwise",
    "bookmark-plus",
    "chevron-bar-left", "chevron-bar-down", "circle-half", "link-45deg", "moon-stars",
    "question-circle", "sliders", "sun", "x-lg",
)  # fmt: skip
_ICON_SHEET = "assets/bootstrap/icons.css"
_ICON_RULES = """/* Icons of Bootstrap Icons {version}, made by tools/page_assets.py. */
.bi::before {{
  content: ""; display: inline-block; width: 1em; height: 1em; vertical-align: -0.125em;
  background: currentcolor; mask: var(--icon) center / contain no-repeat;
}}
"""


def main() -> int:
    """Write every file; returns the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        packages = {name: _unpacked(name, Path(folder)) for name in VERSIONS}
        for package, source, target in COPIES:
            _copy(packages[package] / source, ROOT / target)
        _write(ROOT / _ICON_SHEET, icon_sheet(packages["bootstrap-icons"] / "icons"))
    return 0


def _unpacked(name: str, folder: Path) -> Path:
    """Download a package of its pinned version; the folder with its files."""
    wanted = f"{name}@{VERSIONS[name]}"
    subprocess.run(["npm", "pack", "--silent", wanted], cwd=folder, check=True)
    (archive,) = folder.glob(f"{name}-{VERSIONS[name]}.tgz")
    target = folder / name
    with tarfile.open(archive) as opened:
        opened.extractall(target, filter="data")
    return target / "package"


def _copy(source: Path, target: Path) -> None:
    text = source.read_text(encoding="utf-8")
    _write(target, re.sub(r"\n?(/\*|//)# sourceMappingURL=.*\s*$", "\n", text))


def _write(target: Path, text: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")


def icon_sheet(folder: Path) -> str:
    """A style sheet with a class ``bi-NAME`` for each icon."""
    lines = [_ICON_RULES.format(version=VERSIONS["bootstrap-icons"])]
    for name in ICONS:
        svg = re.sub(r' (class|width|height)="[^"]*"', "", (folder / f"{name}.svg").read_text())
        address = quote(re.sub(r"\s*\n\s*", "", svg), safe=" =:/'<>")
        lines.append(f'.bi-{name} {{ --icon: url("data:image/svg+xml,{address}"); }}\n')
    return "".join(lines)


if __name__ == "__main__":
    sys.exit(main())
