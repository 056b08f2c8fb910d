"""Well-known facts as (sentence with a gap for the subject, subject, next word)."""

from __future__ import annotations

_CAPITAL = "The capital of {} is"
_LANGUAGE = "The main language spoken in {} is"
_OPPOSITE = "The opposite of {} is"

_CAPITALS = """France Paris;Germany Berlin;Italy Rome;Spain Madrid;Portugal Lisbon;Greece Athens;
Austria Vienna;Poland Warsaw;Russia Moscow;Japan Tokyo;China Beijing;Egypt Cairo;Norway Oslo;
Sweden Stockholm;Denmark Copenhagen;Ireland Dublin;Hungary Budapest;Cuba Havana;Canada Ottawa;
Turkey Ankara;Iraq Baghdad;Iran Tehran;Kenya Nairobi;Peru Lima;Belgium Brussels;England London"""
_LANGUAGES = """France French;Germany German;Italy Italian;Spain Spanish;Portugal Portuguese;
Brazil Portuguese;Mexico Spanish;Japan Japanese;China Chinese;Russia Russian;Poland Polish;
Greece Greek;Turkey Turkish;Egypt Arabic;England English;Sweden Swedish;Denmark Danish"""
_OPPOSITES = """hot cold;big small;up down;left right;black white;day night;good bad;old young;
open closed;high low;fast slow;true false;love hate;light dark;north south;east west;rich poor"""


def _read(relation: str, pairs: str) -> list[tuple[str, str, str]]:
    split = (pair.split() for pair in pairs.replace("\n", "").split(";"))
    return [(relation, subject, answer) for subject, answer in split]


FACTS = tuple(
    _read(_CAPITAL, _CAPITALS) + _read(_LANGUAGE, _LANGUAGES) + _read(_OPPOSITE, _OPPOSITES)
)
