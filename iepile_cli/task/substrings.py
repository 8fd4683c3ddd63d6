"""The pieces of a text, and every run of them, as an automaton of as many states as pieces.

For grammars that know no substrings by themselves. The suffix automaton of Blumer et al. (1985),
"The smallest automaton recognizing the subwords of a text", over pieces instead of letters: it has
at most two states for each piece.
"""

from __future__ import annotations

from collections.abc import Sequence


class Substrings:
    """The suffix automaton of a row of pieces; state 0 is where a run begins.

    ``moves[state]`` maps a piece to the state behind it; ``last[state]`` is the piece that leads
    into a state, the same whichever way it is entered.
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        self.moves: list[dict[str, int]] = [{}]
        self.last: list[str] = [""]
        self._link = [-1]
        self._length = [0]
        self._end = 0
        for piece in pieces:
            self._append(piece)

    def _append(self, piece: str) -> None:
        fresh = self._state(piece, self._length[self._end] + 1, {})
        state = self._end
        while state >= 0 and piece not in self.moves[state]:
            self.moves[state][piece] = fresh
            state = self._link[state]
        if state < 0:
            self._link[fresh] = 0
        else:
            self._link[fresh] = self._split(state, piece)
        self._end = fresh

    def _split(self, state: int, piece: str) -> int:
        """The state of exactly the runs that end with ``state``'s and ``piece``."""
        behind = self.moves[state][piece]
        if self._length[behind] == self._length[state] + 1:
            return behind
        copy = self._state(piece, self._length[state] + 1, dict(self.moves[behind]))
        self._link[copy] = self._link[behind]
        self._link[behind] = copy
        while state >= 0 and self.moves[state].get(piece) == behind:
            self.moves[state][piece] = copy
            state = self._link[state]
        return copy

    def _state(self, piece: str, length: int, moves: dict[str, int]) -> int:
        self.moves.append(moves)
        self.last.append(piece)
        self._link.append(-1)
        self._length.append(length)
        return len(self.moves) - 1
