"""A prior for how many things a list holds.

Small models end lists too soon, or too late, more surely than they err about what they list. Where
an answer may end a list or go on with it, the prior shifts the log-odds between the two by a
constant. What it leaves alone: how likely the list is to be decided about here at all (and so where
a mention ends), and the scores of what is listed, which stay the model's own probabilities.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from llguidance import LLTokenizer
    from numpy.typing import NDArray

    from iepile_cli.backends.repetition import AnswerReader

UNDECIDED, ENDS, GOES_ON = 0, 1, 2
_QUOTE, _ESCAPE, _COMMA = b'"\\,'
_CLOSERS = {ord("["): ord("]"), ord("{"): ord("}")}


@lru_cache(maxsize=1 << 16)
def decision(piece: bytes, open_closers: bytes, in_string: bool, escaped: bool) -> int:
    """What the next bytes of an answer decide about the innermost list: the first such decision.

    ``open_closers`` are what would close each open bracket, the innermost last. A list ends with
    its bracket and goes on with a comma behind a part, or with its first part.
    """
    closers = bytearray(open_closers)
    for byte in piece:
        if in_string:
            if escaped:
                escaped = False
            elif byte == _ESCAPE:
                escaped = True
            elif byte == _QUOTE:
                in_string = False
            continue
        if closers and closers[-1] == ord("]"):
            if byte == ord("]"):
                return ENDS
            if byte in (_COMMA, _QUOTE) or byte in _CLOSERS:
                return GOES_ON
        if byte == _QUOTE:
            in_string = True
        elif byte in _CLOSERS:
            closers.append(_CLOSERS[byte])
        elif closers and byte == closers[-1]:
            closers.pop()
    return UNDECIDED


def leaned(
    scores: NDArray[np.float32],
    ids: NDArray[np.intp],
    prior: float,
    reader: AnswerReader,
    tokenizer: LLTokenizer,
) -> NDArray[np.float32]:
    """The logits ``scores`` of tokens ``ids``, the log-odds of going on shifted by ``prior``."""
    import numpy as np

    state = reader.closers, reader.in_string, reader.escaped
    kinds = np.array([decision(tokenizer.decode_bytes([int(i)]), *state) for i in ids])
    ends, goes_on = kinds == ENDS, kinds == GOES_ON
    if not ends.any() or not goes_on.any():
        return scores
    before = np.logaddexp.reduce(scores[ends | goes_on])
    shifted = scores.astype(np.float64)
    shifted[goes_on] += prior
    # What both have together stays: only their shares of it change.
    shifted[ends | goes_on] += before - np.logaddexp.reduce(shifted[ends | goes_on])
    return shifted.astype(np.float32)
