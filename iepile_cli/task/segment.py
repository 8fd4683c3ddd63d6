"""The pieces of a text that mentions are made of.

Whole words where a script puts spaces between words; single characters, each with its combining
marks, where it does not (Chinese, Japanese, Thai, ...); punctuation, symbols and white space one
character at a time. A mention is a run of pieces with no white space at either end, so decoding
and grounding agree on what a mention can be.
"""

from __future__ import annotations

import re
import unicodedata

# Scripts written without spaces between words, as ranges of code points: Thai, Lao, Tibetan,
# Myanmar, Khmer, kana, Bopomofo, Han (with extensions), Yi and half-width kana. Hangul has spaces.
_UNSPACED = (
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u19e0-\u1aaf\u2e80-\u2fdf\u3005-\u3007"
    "\u3021-\u312f\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua4cf\uaa60-\uaa7f\uf900-\ufaff"
    "\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
# A word, a flag (two regional indicators), or any one character.
_UNIT = re.compile(rf"[^\W{_UNSPACED}]+|[\U0001f1e6-\U0001f1ff]{{2}}|.", re.DOTALL)
_ZWJ = "\u200d"
# What clings to the character before it although it is no combining mark: joiners, soft hyphen,
# emoji skin tones and tags. (Variation selectors and keycaps are combining marks.)
_CLINGING = re.compile("[\u00ad\u200c\u200d\u2060\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]")


def segment(text: str) -> list[str]:
    """Cut a text into its pieces; joined they give the text back."""
    units: list[str] = _UNIT.findall(text)
    if text.isascii():
        return units
    cut: list[str] = []
    for unit in units:
        if cut and _continues(cut[-1], unit):
            cut[-1] += unit
        else:
            cut.append(unit)
    return cut


def _continues(before: str, unit: str) -> bool:
    """Whether a unit belongs to the piece before it."""
    if before.isspace():
        return False
    if _clings(unit[0]):
        return True
    if not _clings(before[-1]):
        return False
    # After a mark or joiner: the rest of the same word, or the rest of an emoji sequence.
    return before[-1] == _ZWJ if not unit[0].isalnum() else _in_word(before[0]) and _in_word(unit)


def _clings(character: str) -> bool:
    if character.isascii():
        return False
    return unicodedata.category(character)[0] == "M" or _CLINGING.match(character) is not None


def _in_word(unit: str) -> bool:
    return unit[0].isalnum() and (len(unit) > 1 or re.match(f"[{_UNSPACED}]", unit) is None)
