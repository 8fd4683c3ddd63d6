"""One answer under its grammar: which tokens may come next, which must, and when it is over.

Wraps an llguidance matcher. A backend asks ``allowed()``, picks a token and hands it to
``accept()``; ``tokens`` is then the answer so far, forced tokens included, and ``kept`` how many of
the tokens it had before still stand (fewer, when a repetition was taken back): that is how much of
its cache a backend may keep. Nothing here knows tensors or a particular backend.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from iepile_cli.backends.protocol import Answer
from iepile_cli.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    from llguidance import LLTokenizer
    from numpy.typing import NDArray

_QUOTE, _ESCAPE, _COMMA, _COLON = b'"\\,:'
_OPENING = {ord("["): ord("]"), ord("{"): ord("}")}


class Constraint:
    """An answer being written under a grammar.

    ``budget`` is the number of tokens it may have; when they are spent the answer is closed with
    what is complete and ``truncated`` is set. ``empties`` are the ``"key": []`` texts of all keys
    in order, to close it with.
    """

    def __init__(
        self,
        tokenizer: LLTokenizer,
        grammar: str,
        budget: int,
        empties: tuple[str, ...],
    ) -> None:
        from llguidance import LLMatcher, LLParserLimits

        self._tokenizer = tokenizer
        # The defaults are for grammars of strangers; ours has a literal for every word, however
        # long the word is.
        limits = LLParserLimits(
            initial_lexer_fuel=50_000_000, step_lexer_fuel=50_000_000, max_lexer_states=2_000_000
        )
        self._unused: Any = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
        self._matcher = self._unused.deep_copy()
        self._check()
        self._reader = AnswerReader()
        self._budget = budget
        self._empties = empties
        self._tail = b""
        self.tokens: list[int] = []
        self.kept = 0
        self.done = self.truncated = False
        self._ends: list[int] = []
        self._probs: list[float] = []
        self._force()

    def allowed(self) -> NDArray[np.intp]:
        """The ids of the tokens that may come next, ascending; never empty before ``done``."""
        import numpy as np

        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        ids = np.flatnonzero(np.unpackbits(bits, bitorder="little"))
        if not ids.size:
            raise ModelError("the grammar of an answer has no way on; please report this")
        return ids

    def accept(self, token: int, probability: float) -> None:
        """Take the chosen token, its repetitions back out, and what is forced after it."""
        self.kept = len(self.tokens)
        if not self._matcher.consume_token(token):
            self._check()
        repeat = self._append(token, probability)
        if repeat is not None:
            self._take_back(repeat)
        self._force()

    def answer(self, prompt_tokens: int) -> Answer:
        """The finished answer."""
        text = bytes(self._reader.text) + self._tail
        shift = len(text) - len(text.lstrip())
        return Answer(
            text=text.decode("utf-8", errors="replace").strip(),
            truncated=self.truncated,
            prompt_tokens=prompt_tokens,
            answer_tokens=len(self.tokens),
            token_ends=tuple(end - shift for end in self._ends),
            token_probs=tuple(self._probs),
        )

    # ------------------------------------------------------------------------------ inner steps

    def _append(self, token: int, probability: float) -> Repeat | None:
        repeat = self._reader.feed(self._tokenizer.decode_bytes([token]))
        self.tokens.append(token)
        self._probs.append(probability)
        self._ends.append(len(self._reader.text))
        return repeat

    def _take_back(self, repeat: Repeat) -> None:
        """Cut the answer before a repeated part and close its list there."""
        text = bytes(self._reader.text[: repeat.cut])
        keep = next((n for n, end in enumerate(self._ends) if end > repeat.cut), len(self._ends))
        start = self._ends[keep - 1] if keep else 0
        # Rolled back, a matcher of llguidance 1.9 may allow tokens that its grammar then refuses.
        self._matcher = self._unused.deep_copy()
        if not self._matcher.consume_tokens(self.tokens[:keep]):
            self._check()
        del self.tokens[keep:], self._probs[keep:], self._ends[keep:]
        self.kept = min(self.kept, keep)
        self._reader = AnswerReader()
        self._reader.feed(text[:start])
        self._extend(self._tokenizer.tokenize_bytes(text[start:] + repeat.closer))

    def _extend(self, tokens: list[int]) -> None:
        """Append tokens that are not a choice, up to a repetition they complete or the budget."""
        for token in tokens:
            if len(self.tokens) >= self._budget:
                return
            if not self._matcher.consume_token(token):
                self._check()
            repeat = self._append(token, 1.0)
            if repeat is not None:
                self._take_back(repeat)
                return

    def _force(self) -> None:
        """Append what the grammar leaves no choice about, and see whether the answer is over."""
        while not self._over():
            forced = self._matcher.compute_ff_tokens()
            if not forced:
                return
            self._extend(forced)

    def _over(self) -> bool:
        if self.done:
            return True
        if self._matcher.is_stopped() or self._matcher.is_accepting():
            self._check()
            self.done = True
        elif len(self.tokens) >= self._budget:
            self._close()
        return self.done

    def _close(self) -> None:
        self._reader.text[:], self._tail = self._reader.closed(self._empties)
        self.done = self.truncated = True

    def _check(self) -> None:
        if self._matcher.is_error():
            problem = " ".join(str(self._matcher.get_error()).split())[:300]
            raise ModelError(f"the grammar of an answer failed: {problem}")


class Unconstrained:
    """An answer without a grammar: it ends at a stop token or text, or when its budget is spent."""

    def __init__(
        self,
        tokenizer: LLTokenizer,
        budget: int,
        stops: frozenset[int],
        stop_texts: tuple[str, ...] = (),
    ) -> None:
        self._tokenizer, self._budget, self._stops = tokenizer, budget, stops
        self._stop_texts = [text.encode() for text in stop_texts if text]
        self.tokens: list[int] = []
        self.kept = 0
        self.done = self.truncated = False
        self._text = bytearray()

    def allowed(self) -> None:
        """Every token may come next."""
        return

    def accept(self, token: int, probability: float) -> None:
        """Take the chosen token."""
        self.kept = len(self.tokens)
        if token in self._stops:
            self.done = True
            return
        self.tokens.append(token)
        self._text += self._tokenizer.decode_bytes([token])
        ends = [at for text in self._stop_texts if (at := self._text.find(text)) >= 0]
        if ends:
            del self._text[min(ends) :]
            self.done = True
        elif len(self.tokens) >= self._budget:
            self.done = self.truncated = True

    def answer(self, prompt_tokens: int) -> Answer:
        """The finished answer."""
        return Answer(
            text=self._text.decode("utf-8", errors="replace").strip(),
            truncated=self.truncated,
            prompt_tokens=prompt_tokens,
            answer_tokens=len(self.tokens),
        )


def choose(scores: NDArray[np.float32], ids: NDArray[np.intp] | None) -> tuple[int, float]:
    """The likeliest token, of equals the lowest, and its probability among the allowed ones.

    ``scores`` are the logits of the allowed tokens ``ids`` (None: of the whole vocabulary).
    """
    import numpy as np

    best = int(np.argmax(scores))
    total = float(np.exp((scores - scores[best]).astype(np.float64)).sum())
    token = best if ids is None else int(ids[best])
    return token, 1.0 / total if math.isfinite(total) else 0.0


# ---------------------------------------- reading an answer as it is written


@dataclass(slots=True)
class _Container:
    closer: int
    start: int
    part: int
    """Where the part that is being written starts."""
    end: int
    """Where the last complete part ends; the byte after the opening bracket before there is one."""
    in_key: bool
    seen: set[bytes] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Repeat:
    """A part that came again: cut the answer to ``cut`` bytes, then write ``closer``."""

    cut: int
    closer: bytes


class AnswerReader:
    """Reads an answer's bytes as they come; ``feed`` tells of the first part that repeats."""

    def __init__(self) -> None:
        self.text = bytearray()
        self._stack: list[_Container] = []
        self.in_string = False
        self.escaped = False

    def feed(self, more: bytes) -> Repeat | None:
        """Read on; gives the repetition that these bytes complete, if any."""
        for byte in more:
            self.text.append(byte)
            repeat = self._read(byte)
            if repeat is not None:
                return repeat
        return None

    def closed(self, empties: Sequence[str]) -> tuple[bytes, bytes]:
        """The answer closed here: what is complete of it, and what ends it.

        ``empties`` are the ``"key": []`` texts of all keys, of which those still missing are used.
        """
        keep, closer, answered = self.salvage()
        rest = ", ".join(empties[answered:]).encode()
        joint = b", " if answered and rest else b""
        return bytes(self.text[:keep]) or b"{", closer + joint + rest + b"}"

    def salvage(self) -> tuple[int, bytes, int]:
        """How to end the answer now and keep what is complete.

        Gives how many bytes to keep, what closes the key that is being answered, and how many
        keys have an answer then (the one being closed included).
        """
        if not self._stack:
            return 0, b"", 0
        top = self._stack[0]
        if len(self._stack) > 1:
            inner = self._stack[1]
            return inner.end, bytes([inner.closer]), len(top.seen)
        pending = bool(top.seen) and top.end <= top.part and not self.in_string
        return top.end, b"", len(top.seen) - pending

    def _read(self, byte: int) -> Repeat | None:
        at = len(self.text)
        if self.in_string:
            if self.escaped:
                self.escaped = False
            elif byte == _ESCAPE:
                self.escaped = True
            elif byte == _QUOTE:
                self.in_string = False
                return self._string_ends(at)
            return None
        container = self._stack[-1] if self._stack else None
        if byte == _QUOTE:
            self.in_string = True
            if container and (container.in_key or container.closer == ord("]")):
                container.part = at - 1
        elif byte in _OPENING:
            if container and container.closer == ord("]"):
                container.part = at - 1
            self._stack.append(_Container(_OPENING[byte], at - 1, at, at, in_key=byte == ord("{")))
        elif container and byte == container.closer:
            self._stack.pop()
            return self._part_ends(at)
        elif container and byte == _COLON:
            container.in_key = False
        elif container and byte == _COMMA:
            container.in_key = container.closer == ord("}")
        return None

    def _string_ends(self, at: int) -> Repeat | None:
        container = self._stack[-1] if self._stack else None
        if container is None:
            return None
        if container.in_key:
            return self._see(container, at)
        return self._part_ends(at)

    def _part_ends(self, at: int) -> Repeat | None:
        if not self._stack:
            return None
        container = self._stack[-1]
        if container.closer == ord("]"):
            repeat = self._see(container, at)
            if repeat is not None:
                return repeat
        container.end = at
        return None

    def _see(self, container: _Container, at: int) -> Repeat | None:
        part = bytes(self.text[container.part : at])
        if part in container.seen:
            return Repeat(container.end, bytes([container.closer]))
        container.seen.add(part)
        return None
