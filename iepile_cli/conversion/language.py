"""Which of the two instruction languages a text is asked in."""

from __future__ import annotations

import re

_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_WORD = re.compile(r"[^\W\d_]+")


def language_of(text: str) -> str:
    """``zh`` when a text has more Chinese characters than words in other scripts, else ``en``.

    A Chinese character weighs as much as a whole word of an alphabet, so that a Chinese sentence
    full of product names stays Chinese.
    """
    if text.isascii():
        return "en"
    characters = len(_HAN.findall(text))
    if not characters:
        return "en"
    words = len(_WORD.findall(_HAN.sub(" ", text)))
    return "zh" if characters > words else "en"
