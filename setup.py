"""List the packages and their data; ``assets/`` is installed as ``dash_app/assets/``."""

from pathlib import Path

from setuptools import find_packages, setup

FOLDERS = [Path("assets"), *(path for path in Path("assets").rglob("*") if path.is_dir())]
ASSETS = {".".join(("dash_app", *folder.parts)): folder.as_posix() for folder in FOLDERS}

setup(
    packages=[*find_packages(include=["analysis*", "dash_app*"]), *ASSETS],
    package_dir=ASSETS,
    package_data={
        "": ["py.typed"],
        "analysis.tasks": ["models/*/*"],
        "analysis.learned": ["lenses/*"],
        **{package: ["*.*"] for package in ASSETS},
    },
)
