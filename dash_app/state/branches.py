"""Branches of an answer, as text.

A branch is an answer whose first tokens are given; generation goes on from them. As text, for a
link, it is their ids, joined by ".", and the text of the last one: ``260.314=%20London``. After ":"
instead of "=", the text is a person's own, and the model's tokenizer reads it: ``260:%20London``.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote, unquote

_IDS = r"\d{1,7}(\.\d{1,7})*"
_TEXT = r"[^,:=.]{1,700}"
#: What a branch looks like; empty: the model's own answer.
BRANCH = rf"^({_IDS}={_TEXT}|({_IDS})?:{_TEXT})?$"
#: Most characters of a branch, and most branches that are kept.
MAX_BRANCH, MAX_BRANCHES = 1500, 8
#: Most characters of a text of one's own.
MAX_OWN = 60


def taken(before: Sequence[int], token: int, text: str) -> str:
    """The branch that takes a token after the first tokens of an answer.

    Args:
        before: Ids of the answer's tokens before it.
        token: Its id.
        text: Its text.
    """
    return f"{'.'.join(map(str, (*before, token)))}={_quoted(text) or '%20'}"


def written(before: Sequence[int], text: str) -> str:
    """The branch that continues the first tokens of an answer with a text of one's own."""
    return f"{'.'.join(map(str, before))}:{_quoted(text)}"


def _quoted(text: str) -> str:
    return quote(text, safe="").replace(".", "%2E")


def branch_name(branch: str) -> str:
    """The text of the first token, or the own text, in which a branch differs."""
    return unquote(branch.replace("=", ":").partition(":")[2])
