"""Ids of the tasks view."""

from __future__ import annotations

from enum import StrEnum


class TasksId(StrEnum):
    """What callbacks of this view name, beside the parts of each report."""

    MODEL = "tasks-model"
    SUITE = "tasks-suite"
    SIZE = "tasks-size"
    DIGITS = "tasks-digits"
    SUM = "tasks-sum"
    UPLOAD = "tasks-upload"
    LIST = "tasks-list"
    SAID = "tasks-upload-said"
    DOWNLOAD = "tasks-download"


class Part(StrEnum):
    """The parts that every report has."""

    BUTTON = "run"
    CANCEL = "cancel"
    BAR = "progress"
    LAST = "last"
    READY = "ready"
    SUMMARY = "summary"
    FIGURES = "figures"
    TOOLS = "tools"
    SIZE = "size"


class Option(StrEnum):
    """Further controls; which report has which stands in ``reports``."""

    HEAD = "head"
    TARGET = "target"
    CONTROL = "control"
    COMPONENT = "component"
    PLACE = "place"
    COLUMN = "column"
    TRAVELS = "travels"
    POSITIONS = "positions"
    PAIR = "pair"


def of(report: str, part: str) -> str:
    """The id of a part of a report; the suite's own are the view's: ``tasks-run``."""
    return f"tasks-{part}" if report == "suite" and part != Part.SIZE else f"tasks-{report}-{part}"
