"""Tokens as readable text, and the escaping that plotly needs.

``label`` and ``quoted`` return plain text for the page. Plotly interprets some HTML, entities and
LaTeX in labels and hover boxes, so figures pass every label through ``markup``.
"""

from __future__ import annotations

import codecs
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache

from dash.development.base_component import Component

from analysis.contract.specs import Token
from analysis.lens.specs import LensSpec
from dash_app.page.panel import Option, control, segmented, switch
from dash_app.state.context import Service, result_of, trace_of
from dash_app.state.selection import RunRef, Selection, resolve

#: Longest label in character cells, unless a figure sets a shorter one.
LIMIT = 28

_SPACE, _ONLY_SPACE = "·", "␣"
_VISIBLE = {"\n": "↵", "\r": "␍", "\t": "⇥", "·": "U+00B7"}
_RUN = re.compile(r"([·␣↵⇥])\1{4,}")
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_JOINERS = ("\u200d", "\ufe0f", "\ufe0e")
#: Unicode's first strong isolate and its end: the text between them sets its own direction.
_ISOLATE, _END = "\u2068", "\u2069"
_FALLBACK = "stratascope-bytes"


def _show_bytes(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return bytes_label(error.object[error.start : error.end]), error.end


codecs.register_error(_FALLBACK, _show_bytes)


def bytes_label(data: bytes) -> str:
    """Bytes that are no complete character, as hexadecimal digits in angle brackets."""
    return f"⟨{data.hex(' ').upper()}⟩"


@lru_cache(maxsize=20_000)
def label(token: Token, limit: int = LIMIT) -> str:
    """A token as readable text, with spaces, line ends, tabs and bytes made visible.

    It is plain text, at most ``limit`` character cells wide (wide characters count twice). Text
    from right to left is isolated, so that it does not reverse what stands beside it.
    """
    return _isolated(shorten(_visible(_decoded(token), keep_space=False), limit))


def quoted(token: Token, limit: int = LIMIT) -> str:
    """A token in quotes, for a sentence; a single leading space stays a space: ' Paris'."""
    return f"'{_isolated(shorten(_visible(_decoded(token), keep_space=True), limit))}'"


def _isolated(text: str) -> str:
    """The text between isolating marks, if a part of it runs from right to left."""
    turns = any(unicodedata.bidirectional(char) in {"R", "AL", "AN"} for char in text)
    return f"{_ISOLATE}{text}{_END}" if turns and not text.startswith(_ISOLATE) else text


def markup(text: str) -> str:
    """Escape plain text for plotly's labels and hover boxes.

    Tags, entities and LaTeX dollars appear literally, and right-to-left text does not reverse the
    numbers beside it.
    """
    safe = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _isolated(safe.replace("$", "&#36;"))


def plain(markup_text: str) -> str:
    """The plain text of ``markup``."""
    for entity, char in (("&lt;", "<"), ("&gt;", ">"), ("&#36;", "$"), ("&amp;", "&")):
        markup_text = markup_text.replace(entity, char)
    return markup_text.strip(_ISOLATE + _END)


def token_markup(token: Token, limit: int = LIMIT) -> str:
    """``label``, escaped for plotly."""
    return markup(label(token, limit))


def labels(tokens: Iterable[Token], limit: int = LIMIT) -> list[str]:
    """``token_markup`` of each token."""
    return [token_markup(token, limit) for token in tokens]


def width(text: str) -> int:
    """Width of ``text`` in character cells: 2 for wide characters, 0 for combining ones."""
    return sum(_cells(char) for char in text)


def shorten(text: str, limit: int) -> str:
    """At most ``limit`` cells of ``text``; an ellipsis marks what was cut off."""
    if width(text) <= limit:
        return text
    kept, used = "", 0
    for char in text:
        used += _cells(char)
        if used > limit - 1:
            break
        kept += char
    return kept.rstrip("".join(_JOINERS)) + "…"


def percent(value: float) -> str:
    """A probability as text: 83 %, 4.2 %, 0.03 %, <0.01 %; "none" for NaN."""
    if math.isnan(value):
        return "none"
    if value == 0:
        return "0 %"
    points = value * 100
    if points >= 99.95 and value < 1:
        return ">99.9 %"
    if 10 <= points < 99 or value >= 1:
        return f"{points:.0f} %"
    if points >= 1:  # 99.8 %, because "100 %" would leave nothing for other tokens
        return f"{points:.1f} %"
    return f"{points:.2f} %" if points >= 0.01 else "<0.01 %"


def row_name(row: int) -> str:
    """Name of a residual row: the embedding, or the output of the block below it."""
    return "embedding" if row == 0 else f"after layer {row - 1}"


def layer_name(row: int) -> str:
    """A residual row in a narrow place: the number of the layer that writes it, or "emb."."""
    return "emb." if row == 0 else str(row - 1)


def at_row(row: int) -> str:
    """Where a residual row is, in a sentence: "at the embedding" or "after layer 29"."""
    return "at the embedding" if row == 0 else row_name(row)


def _cells(char: str) -> int:
    if char in (*_JOINERS, _ISOLATE, _END) or unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _decoded(token: Token) -> str:
    piece = _BYTE_PIECE.fullmatch(token.raw)
    if "\ufffd" in token.text and token.data:
        return bytes.fromhex(token.data).decode("utf-8", errors=_FALLBACK)
    if "\ufffd" in token.text and piece:
        return bytes_label(bytes.fromhex(piece[1]))
    return token.text or token.raw or "(empty)"


def _visible(text: str, *, keep_space: bool) -> str:
    body = text.strip(" ")
    if not body:
        return _RUN.sub(_count, _ONLY_SPACE * len(text))
    lead = len(text) - len(text.lstrip(" "))
    tail = len(text) - lead - len(body)
    lead_text = " " if keep_space and lead == 1 else _SPACE * lead
    shown = lead_text + "".join(map(_visible_char, body)) + _SPACE * tail
    return _RUN.sub(_count, shown)


def _count(run: re.Match[str]) -> str:
    return f"{run[1]}×{len(run[0])}"


def _visible_char(char: str) -> str:
    if char in _VISIBLE:
        return _VISIBLE[char]
    category = unicodedata.category(char)
    if category == "Cc":
        return f"\\x{ord(char):02x}"
    hidden = category in {"Cf", "Zl", "Zp"} or (category == "Zs" and char != " ")
    return f"U+{ord(char):04X}" if hidden and char not in _JOINERS else char


def tokens_by_id(service: Service, run: RunRef, ids: list[int]) -> dict[int, Token]:
    """The run's tokens by id, with those of ``ids`` that the run does not contain."""
    result = result_of(service, run)
    known = {token.id: token for token in (*result.vocabulary, *result.tokens)}
    unknown = tuple(sorted({number for number in ids if 0 <= number < run.vocab} - known.keys()))
    if unknown:
        grid = service.ask(trace_of(run), LensSpec(target=unknown, positions=(0,), k=1))
        known |= {number: grid.token(number) for number in unknown}
    return known


def logit_options(
    service: Service, run: RunRef, selection: Selection
) -> tuple[list[Option], list[Option]]:
    """Tokens whose logit can be explained, and tokens whose logit can be subtracted from it."""
    result, pos = result_of(service, run), resolve(selection, run).pos
    own = int(result.top_ids[pos, 0])
    follows = run.token_ids[pos + 1 : pos + 2]
    chosen = [token for token in (selection.token, selection.foil) if token is not None]
    ids = [own, *result.top_ids[pos, 1:3].tolist(), *follows, *(selection.pins or ()), *chosen]
    ids = [token for token in dict.fromkeys(ids) if 0 <= token < run.vocab]
    named = tokens_by_id(service, run, ids)
    texts = {token: label(named[token], 14) for token in ids}
    target = own if selection.token is None else selection.token
    tokens = [Option("none", f"{texts[own]} (model's choice)")]
    tokens += [
        Option(str(token), texts[token])
        for token in ids
        if token != own or token == selection.token
    ]
    foils = [Option("none", "nothing")]
    foils += [Option(str(token), texts[token]) for token in ids if token != target]
    return tokens, foils


def logit_controls(
    selection: Selection, tokens: Sequence[Option], foils: Sequence[Option]
) -> list[Component]:
    """The two switches, for the fields ``token`` and ``foil`` of the selection."""
    chosen, foil = (
        "none" if token is None else str(token) for token in (selection.token, selection.foil)
    )
    return [
        control("Logit of", segmented(switch("token", tokens, chosen, "Logit of"))),
        control("minus that of", segmented(switch("foil", foils, foil, "Minus that of"))),
    ]
