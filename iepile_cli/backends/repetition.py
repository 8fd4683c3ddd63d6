"""Following an answer as it is written: where its parts end, and when one comes again.

Small models that lose the thread repeat themselves for ever. An answer lists each thing once, so a
part that comes a second time in the same list is the sign to close that list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

_QUOTE, _ESCAPE, _COMMA, _COLON = b'"\\,:'
_OPENING = {ord("["): ord("]"), ord("{"): ord("}")}


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

    @property
    def depth(self) -> int:
        """How many brackets are open."""
        return len(self._stack)

    @property
    def closers(self) -> bytes:
        """What would close each open bracket, the innermost last."""
        return bytes(container.closer for container in self._stack)

    @property
    def keys(self) -> int:
        """How many keys of the answer have begun."""
        return len(self._stack[0].seen) if self._stack else 0

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
