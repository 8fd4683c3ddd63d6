"""Made-up finds of minerals, with what is in them: a schema that no model was trained on.

``Catalogue`` draws texts with their annotation, and answers instructions about them as a large
model would that makes no mistake.
"""

from __future__ import annotations

import json
import random
import re

SCHEMA = ("mineral", "mine", "collector")
_SYLLABLES = re.findall(
    r"\w+", "ba bel cor dan dol far gal hem kar lan lor mel mir nor pal ral sel tar tor var zin"
)
_MINERAL_ENDS = ("ite", "ine", "ase", "olite")
_MINE_ENDS = ("Pit", "Shaft", "Adit", "Quarry", "Lode")
_TITLES = ("Prof.", "Curator", "Warden", "Assayer")
_FORMS = (
    "{collector} found {mineral} at {mine} in {year}.",
    "A vein of {mineral} and {other} was opened at {mine}.",
    "{mine} is known for its {mineral}, which {collector} first described.",
    "The museum bought {mineral} from {collector}.",
    "In {year} {collector} closed {mine}.",
    "Crystals of {mineral} are rare; those from {mine} are the best.",
    "It rained for most of {year}, and nothing was collected.",
    "Neither {mineral} nor {other} occurs at {mine}, as {collector} had claimed.",
)


class Catalogue:
    """Texts from a seed, and the type of every name in them."""

    def __init__(self, seed: int = 7) -> None:
        self._random = random.Random(seed)
        self.types: dict[str, str] = {}

    def _stem(self) -> str:
        return "".join(self._random.choice(_SYLLABLES) for _ in range(self._random.choice((2, 3))))

    def _name(self, kind: str) -> str:
        stem, choose = self._stem(), self._random.choice
        name = {
            "mineral": stem + choose(_MINERAL_ENDS),
            "mine": f"{stem.title()} {choose(_MINE_ENDS)}",
            "collector": f"{choose(_TITLES)} {stem.title()}",
        }[kind]
        self.types[name] = kind
        return name

    def text(self) -> str:
        """One text; its names are new."""
        form = self._random.choice(_FORMS)
        names = {kind: self._name(kind) for kind in SCHEMA if f"{{{kind}}}" in form}
        other = self._name("mineral") if "{other}" in form else ""
        return form.format(**names, other=other, year=self._random.randrange(1850, 1990))

    def answer(self, prompt: str) -> str:
        """The answer to a prompt that holds an instruction."""
        asked = json.loads(prompt[prompt.index("{") : prompt.rindex("}") + 1])
        found: dict[str, list[str]] = {label: [] for label in asked["schema"]}
        places = [
            (match.start(), name)
            for name in self.types
            if name in asked["input"]
            and (match := re.search(rf"\b{re.escape(name)}(?!\w)", asked["input"]))
        ]
        for _, name in sorted(places):
            if self.types[name] in found:
                found[self.types[name]].append(name)
        return json.dumps(found)
