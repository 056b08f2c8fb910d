"""List the packages and their data.

``assets/`` is installed as ``dash_app/assets/``, and the glossary as ``dash_app/docs/glossary.md``.
"""

from pathlib import Path

from setuptools import find_packages, setup

FOLDERS = [Path("assets"), *(path for path in Path("assets").rglob("*") if path.is_dir())]
ASSETS = {".".join(("dash_app", *folder.parts)): folder.as_posix() for folder in FOLDERS}
DOCS = "dash_app.docs"

setup(
    packages=[*find_packages(include=["analysis*", "dash_app*"]), *ASSETS, DOCS],
    package_dir={**ASSETS, DOCS: "docs"},
    package_data={
        "": ["py.typed"],
        DOCS: ["glossary.md"],
        "analysis.tasks": ["models/*/*"],
        "analysis.learned": ["lenses/*"],
        **{package: ["*.*"] for package in ASSETS},
    },
)
