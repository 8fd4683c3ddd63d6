"""One answer under its grammar: which tokens may come next, which must, and when it is over.

Wraps an llguidance matcher. A backend asks ``allowed()``, picks a token and hands it to
``accept()``; ``tokens`` is then the answer so far, forced tokens included, and ``kept`` how many of
the tokens it had before still stand (fewer, when a repetition was taken back): that is how much of
its cache a backend may keep. Nothing here knows tensors or a particular backend.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from iepile_cli.backends import Answer
from iepile_cli.backends.list_prior import leaned
from iepile_cli.backends.repetition import AnswerReader, Repeat
from iepile_cli.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    from llguidance import LLTokenizer
    from numpy.typing import NDArray


class Constraint:
    """An answer being written under a grammar.

    ``budget`` is the number of tokens it may have; when they are spent the answer is closed with
    what is complete and ``truncated`` is set. ``empties`` are the ``"key": []`` texts of all keys
    in order, to close it with. ``list_prior`` is added to the log-odds of going on with a list
    against ending it.
    """

    def __init__(
        self,
        tokenizer: LLTokenizer,
        grammar: str,
        budget: int,
        empties: tuple[str, ...],
        list_prior: float = 0.0,
    ) -> None:
        from llguidance import LLMatcher, LLParserLimits

        self._tokenizer = tokenizer
        # The defaults are for grammars of strangers; ours has a literal for every word, however
        # long the word is.
        limits = LLParserLimits(
            initial_lexer_fuel=50_000_000, step_lexer_fuel=50_000_000, max_lexer_states=2_000_000
        )
        self._matcher: Any = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
        self._check()
        self._reader = AnswerReader()
        self._budget = budget
        self._empties = empties
        self._list_prior = list_prior
        self._tail = b""
        self.tokens: list[int] = []
        self.kept = 0
        self.done = self.truncated = False
        self._ends: list[int] = []
        self._probs: list[float] = []
        self._force()

    @property
    def left(self) -> int:
        """How many more tokens the answer may have."""
        return self._budget - len(self.tokens)

    def allowed(self) -> NDArray[np.intp]:
        """The ids of the tokens that may come next, ascending; never empty before ``done``."""
        import numpy as np

        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        ids = np.flatnonzero(np.unpackbits(bits, bitorder="little"))
        if not ids.size:
            raise ModelError("the grammar of an answer has no way on; please report this")
        return ids

    def leaned(self, scores: NDArray[np.float32], ids: NDArray[np.intp]) -> NDArray[np.float32]:
        """The logits ``scores`` of the allowed tokens ``ids`` as the list prior has them."""
        if not self._list_prior:
            return scores
        return leaned(scores, ids, self._list_prior, self._reader, self._tokenizer)

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
        if not self._matcher.rollback(len(self.tokens) - keep):
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
    """An answer without a grammar: it ends at an end token, or when its budget is spent."""

    def __init__(self, tokenizer: LLTokenizer, budget: int, stops: frozenset[int]) -> None:
        self._tokenizer, self._budget, self._stops = tokenizer, budget, stops
        self.tokens: list[int] = []
        self.kept = 0
        self.done = self.truncated = False
        self._ends: list[int] = []
        self._probs: list[float] = []
        self._text = bytearray()

    def allowed(self) -> None:
        """Every token may come next."""
        return

    def leaned(self, scores: NDArray[np.float32], ids: NDArray[np.intp]) -> NDArray[np.float32]:
        """Nothing is shifted where no form is known."""
        return scores

    def accept(self, token: int, probability: float) -> None:
        """Take the chosen token."""
        self.kept = len(self.tokens)
        if token in self._stops:
            self.done = True
            return
        self.tokens.append(token)
        self._text += self._tokenizer.decode_bytes([token])
        self._ends.append(len(self._text))
        self._probs.append(probability)
        if len(self.tokens) >= self._budget:
            self.done = self.truncated = True

    def answer(self, prompt_tokens: int) -> Answer:
        """The finished answer."""
        return Answer(
            text=self._text.decode("utf-8", errors="replace").strip(),
            truncated=self.truncated,
            prompt_tokens=prompt_tokens,
            answer_tokens=len(self.tokens),
        )


def spells(tokenizer: LLTokenizer, text: str) -> bool:
    """Whether a vocabulary can write a text: it comes back from its tokens unchanged."""
    raw = text.encode()
    return bool(tokenizer.decode_bytes(tokenizer.tokenize_bytes(raw)) == raw)


def choose(
    scores: NDArray[np.float32],
    ids: NDArray[np.intp] | None,
    constraint: Constraint | Unconstrained,
) -> tuple[int, float]:
    """The likeliest token, of equals the lowest, and its probability among the allowed ones.

    ``scores`` are the logits of the allowed tokens ``ids`` (None: of the whole vocabulary).
    """
    import numpy as np

    lean = scores if ids is None else constraint.leaned(scores, ids)
    best = int(np.argmax(lean))
    total = float(np.exp((scores - scores[best]).astype(np.float64)).sum())
    token = best if ids is None else int(ids[best])
    return token, 1.0 / total if math.isfinite(total) else 0.0
