"""A backend plugin whose answers are the capitalised words of a text: quick and always the same.

``write_plugin`` makes it a plugin, where an installer would.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from iepile_cli.backends import Answer, Backend, Options, Probe, Request, Runner
from iepile_cli.errors import ModelError

_NAME = re.compile(r"\b[A-Z]\w+")
PAUSE = float(os.environ.get("GAZETTEER_PAUSE", "0"))


class Words:
    """A tokenizer without a model: a token for every four characters."""

    bos = eos = chat_template = None
    add_bos = False
    control_ids: frozenset[int] = frozenset()

    def text(self, text: str) -> list[int]:
        return [0] * -(-len(text) // 4)

    def control(self, token: str) -> int | None:
        return None

    def controls(self) -> dict[str, int]:
        return {}


class Gazetteer(Runner):
    tokenizer: Any
    context = 4096
    reproducible = True

    def __init__(self) -> None:
        self.tokenizer = Words()

    def generate(self, requests: Iterable[Request]) -> Iterator[Answer]:
        for request in requests:
            if PAUSE:
                time.sleep(PAUSE)
            asked = request.instruction
            assert asked is not None
            if "CRASH" in asked.text:
                yield Answer("", failed="the text says so")
                continue
            names = list(dict.fromkeys(_NAME.findall(asked.text)))
            answer = {item.type: names if n == 0 else [] for n, item in enumerate(asked.items)}
            yield Answer(json.dumps(answer), answer_tokens=len(names), computed_tokens=len(names))

    def close(self) -> None:
        pass


class GazetteerBackend(Backend):
    takes = frozenset({"threads"})
    remote = True

    def probe(self) -> Probe:
        return Probe(True)

    def open(self, model: object, options: Options) -> Runner:
        if os.environ.get("GAZETTEER_BROKEN"):
            raise ModelError("the gazetteer is broken")
        return Gazetteer()


def register(registry: Any) -> None:
    registry.add("backend", "gazetteer", GazetteerBackend(), summary="capitalised words")


def write_plugin(folder: Path) -> None:
    """Put this module where an installer would, as a plugin."""
    info = folder / "gazetteer_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "gazetteer_plugin.py").write_text(Path(__file__).read_text(encoding="utf-8"))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gazetteer_plugin\nVersion: 1.0\n")
    entry = "[iepile.plugins]\ngazetteer = gazetteer_plugin:register\n"
    (info / "entry_points.txt").write_text(entry)
