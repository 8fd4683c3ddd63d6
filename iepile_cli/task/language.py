"""Which of the two instruction languages suits a text, and whether a text is English at all."""

from __future__ import annotations

import re

# Enough to tell; a long text is not read to its end for it.
SAMPLE = 50_000
# Below this share of kana among Han and kana, the kana are quotations in Chinese text.
KANA_SHARE = 0.2

_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_KANA = re.compile("[\u3041-\u30ff\uff66-\uff9f]")
_WORD = re.compile(
    "[^\\W\\d_\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\U00020000-\U0003ffff]+"
)


def detect_language(text: str) -> str:
    """``"zh"`` for text that is mostly Chinese, else ``"en"``, which other languages get too.

    A Han character weighs as much as a word of another script, so Chinese with many Latin names
    stays Chinese. Japanese is told by its kana.
    """
    if text.isascii():
        return "en"
    sample = text[:SAMPLE]
    han = len(_HAN.findall(sample))
    if not han:
        return "en"
    kana = len(_KANA.findall(sample))
    if kana >= KANA_SHARE * (han + kana):
        return "en"
    words = len(_WORD.findall(sample)) + kana
    return "zh" if han >= words else "en"


# Frequent words of English that are rare in other languages: about a third of a text.
_ENGLISH_WORDS = """
    the of and to is was for that with on by from at are as it he she this be has have not his her
    they were which their or but been who will would had its after said i you we
"""
_ENGLISH = frozenset(_ENGLISH_WORDS.split())
# A shorter text does not tell.
_LEAST_WORDS = 25
_ENGLISH_SHARE = 0.06


def seems_foreign(text: str) -> bool:
    """Whether a text is long enough to tell that it is neither English nor Chinese."""
    if detect_language(text) == "zh":
        return False
    sample = text[:SAMPLE].lower()
    words = _WORD.findall(sample)
    if len(words) < _LEAST_WORDS:
        # A few words tell only when their script does.
        latin = any(letter < "\u0250" for word in words for letter in word)
        return not latin and bool(words or _KANA.search(sample))
    return sum(word in _ENGLISH for word in words) < _ENGLISH_SHARE * len(words)
