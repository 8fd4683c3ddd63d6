"""Training rows of the embedded adapter, drawn from many corpora and balanced by kind of label.

Usage: python mixture.py CORPORA LABELS.toml OUTPUT.jsonl EXAMPLES SEED
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections import defaultdict
from pathlib import Path

import tomllib

from iepile_cli.task.table import TASKS

# set: (weight, part, complete): complete sets may be asked for any of their own types.
NER = {
    "FewNERD-36": (5, "train", 1),
    "FewNERD-17": (4, "train", 1),
    "HWU-assistant": (2, "train", 1),
    "SLURP": (1, "train", 1),
    "SGD-slots": (2.5, "train", 0),
    "PolyAI-slots": (1, "train", 1),
    "BotSkills": (1.5, "train", 1),
    "NLU-corpora": (0.4, "train", 1),
    "MaintIE": (1.2, "train", 1),
    "AnnoCTR": (1.2, "train", 1),
    "WikiSQL-slots": (2.5, "train", 0),
    "Advising": (0.7, "train", 1),
    "DART-slots": (0.8, "train", 0),
    "FeTaQA-slots": (1.5, "train", 0),
    "FIRE": (1.2, "train", 1),
    "Text2KG-roles": (2.5, "train", 0),
    "GROBID-NER": (2, "train", 1),
    "GROBID-citations": (0.8, "train", 1),
    "GROBID-affiliations": (0.6, "train", 1),
    "GROBID-acknowledgements": (0.6, "train", 1),
    "GROBID-quantities": (1, "train", 1),
    "US-addresses": (0.6, "train", 1),
    "Name-parts": (0.4, "train", 1),
    "AnyStyle-references": (0.8, "train", 1),
    "Presidio-PII": (1, "train", 1),
    "IDRISI-locations": (1, "train", 1),
    "Clinical-trial-criteria": (1.2, "train", 1),
    "SoMeSci": (1.2, "train", 1),
    "SkillSpan": (0.7, "train", 1),
    "UK-job-skills": (0.4, "train", 1),
    "AJMC-en": (0.6, "train", 1),
    "STREUSLE": (1, "train", 1),
    "GUM-open": (1.2, "train", 1),
    "wikigold": (2, "test", 1),
    "UNER-EWT": (3, "dev", 1),
    "BTC": (1.5, "train", 1),
    "WNUT17": (1.5, "train", 1),
    "MultiCoNER2-en": (3, "train", 1),
    "re3d": (1.2, "train", 1),
    "SEC-filings": (0.6, "train", 1),
    "snips": (1.5, "train", 1),
    "LitBank": (0.8, "train", 1),
    "StackOverflowNER": (1.5, "train", 1),
    "SOFC-Exp": (0.8, "train", 1),
}
RE = {
    "Text2KGBench": 2,
    "KnowledgeNet": 1.2,
    "FIRE": 0.6,
    "MaintIE": 0.3,
    "DART": 0.6,
    "re3d": 1.2,
    "semval-RE": 0.8,
}
# Sets whose neighbouring records come from one document, so that passages can be joined.
FLOWING = {
    "wikigold",
    "UNER-EWT",
    "GUM-open",
    "GROBID-NER",
    "LitBank",
    "STREUSLE",
    "re3d",
    "AnnoCTR",
    "SkillSpan",
    "SoMeSci",
    "AJMC-en",
    "FIRE",
    "SOFC-Exp",
    "KnowledgeNet",
}
GENERIC = {
    "person",
    "organization",
    "location",
    "date",
    "time",
    "place",
    "people",
    "number",
    "name",
    "quantity",
    "event",
    "product",
    "else",
    "organisation",
    "company",
    "city",
    "country",
}
SIZES = [(1, 10), (2, 13), (3, 17), (4, 16), (5, 10), (6, 14), (8, 10), (10, 6), (12, 4)]
LONGEST = 700  # characters of a passage


def main() -> None:
    corpora, labels, output, examples, seed = sys.argv[1:6]
    draw = random.Random(int(seed))
    names = tomllib.loads(Path(labels).read_text("utf-8")).get("names", {})
    root = Path(corpora)
    sets = {
        name: Set(root / "NER" / name, part, "entity", "entity_type")
        for name, (_, part, _) in NER.items()
    }
    relations = {name: Set(root / "RE" / name, "train", "relation", "relation") for name in RE}
    events = Set(root / "EE" / "GENEVA", "train", "event", "event_type")
    roles = json.loads((root / "EE/GENEVA/schema.json").read_text("utf-8").split("\n")[2])
    foreign = [
        (name, label)
        for name, held in sets.items()
        for label in held.by_label
        if label not in GENERIC and NER[name][2]
    ]
    with open(output, "w", encoding="utf-8") as file:
        count = 0
        while count < int(examples):
            kind = draw.random()
            if kind < 0.83:
                row = entities(sets, foreign, names, draw)
            elif kind < 0.93:
                row = triples(relations, names, draw)
            elif kind < 0.96:
                row = attributes(relations["Text2KGBench"], draw)
            else:
                row = happenings(events, roles, draw)
            if row and len(row["instruction"]) + len(row["output"]) < 2200:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1


class Set:
    """The records of a corpus, and which of them hold each label; every list is drawn in turns."""

    def __init__(self, folder: Path, part: str, key: str, label: str) -> None:
        self.name = folder.name
        lines = (folder / f"{part}.json").read_text("utf-8").splitlines()
        self.records = [json.loads(line) for line in lines if line.strip()]
        self.by_label = defaultdict(list)
        for number, record in enumerate(self.records):
            for type_ in sorted({item[label] for item in record.get(key, ())}):
                self.by_label[type_].append(number)
        self.empty = [n for n, record in enumerate(self.records) if not record.get(key)]
        self.labels = sorted(self.by_label)
        self.turns = defaultdict(list)

    def draw(self, rng: random.Random, label: str | None) -> int:
        pool = self.by_label[label] if label is not None else self.empty
        turn = self.turns[label]
        if not turn:
            turn.extend(pool)
            rng.shuffle(turn)
        return turn.pop()


def weighted(weights: dict, rng: random.Random):
    return rng.choices(
        list(weights), [w[0] if isinstance(w, tuple) else w for w in weights.values()]
    )[0]


def size(rng: random.Random) -> int:
    return rng.choices([s for s, _ in SIZES], [w for _, w in SIZES])[0]


def passage(held: Set, number: int, key: str, rng: random.Random):
    """A record, or several neighbours joined: its text, annotations and a rewriting."""
    most = (
        rng.choice([1, 1, 1, 2, 3, 4, 6, 8]) if held.name in FLOWING else rng.choice([1] * 9 + [2])
    )
    texts, items = [], []
    for record in held.records[number : number + most]:
        if texts and sum(map(len, texts)) + len(record["text"]) > LONGEST:
            break
        texts.append(record["text"].strip())
        items += record.get(key, ())
    text = " ".join(texts)
    if len(text) > 1100 or not text:
        return None
    untokenised, lower = rng.random() < 0.6, rng.random() < 0.06

    def rewrite(piece: str) -> str:
        piece = natural(piece) if untokenised else piece
        return piece.lower() if lower else piece

    return text, items, rewrite


def natural(text: str) -> str:
    """Tokenised text as people write it."""
    text = re.sub(r" ([,.;:!?%)\]}])", r"\1", text)
    text = re.sub(r"([(\[{$£€]) ", r"\1", text)
    text = re.sub(r" (n't|'s|'re|'ve|'ll|'d|'m)\b", r"\1", text)
    text = text.replace("`` ", '"').replace(" ''", '"')
    return re.sub(r"(?<=\w) ([-–/]) (?=\w)", r"\1", text)


def written(label: str, names: dict, rng: random.Random) -> str:
    """A label under one of its names, now and then in capitals."""
    forms = names.get(label)
    if forms is not None:
        if not forms:
            return label
        label = forms[0] if rng.random() < 0.6 else rng.choice(forms)
    chance = rng.random()
    if chance < 0.08:
        return label.title()
    if chance < 0.11:
        return label.upper()
    if chance < 0.13:
        return label.replace(" ", "_")
    return label


def entities(sets, foreign, names, rng):
    name = weighted(NER, rng)
    held, complete = sets[name], NER[name][2]
    label = rng.choice(held.labels)
    if rng.random() < 0.35:  # the rest of the draws take a frequent label
        several = rng.sample(held.labels, min(3, len(held.labels)))
        label = max(several, key=lambda each: len(held.by_label[each]))
    number = held.draw(rng, None if held.empty and rng.random() < 0.06 else label)
    drawn = passage(held, number, "entity", rng)
    if drawn is None:
        return None
    text, items, rewrite = drawn
    shown = rewrite(text)
    found = defaultdict(list)
    for item in items:
        mention = rewrite(item["entity"])
        if mention not in shown:
            return None
        if mention and mention not in found[item["entity_type"]]:
            found[item["entity_type"]].append(mention)
    wanted = size(rng)
    present = list(found)
    rng.shuffle(present)
    # About half of what is asked is absent, more when the schema is large.
    positive = (
        present[: max(1, min(len(present), round(wanted * rng.uniform(0.35, 0.8))))]
        if present
        else []
    )
    asked = list(positive)
    absent = [each for each in held.labels if each not in found] if complete else []
    rng.shuffle(absent)
    while len(asked) < wanted and (absent or foreign):
        if absent and (rng.random() < 0.8 or not foreign):
            asked.append(absent.pop())
        elif rng.random() < (0.25 if complete else 0.6):
            other, label = rng.choice(foreign)
            if (
                other != name
                and label not in held.by_label
                and label not in asked
                and not related(label, held.labels)
            ):
                asked.append(label)
        elif not absent and rng.random() < 0.3:
            break
    rng.shuffle(asked)
    types = [written(label, names, rng) for label in asked]
    if len(set(types)) < len(types) or not types:
        return None
    answer = {
        t: sorted(found.get(each, ()), key=shown.find) for t, each in zip(types, asked, strict=True)
    }
    return row("NER", name, types, shown, answer)


def related(label: str, labels: list[str]) -> bool:
    words = set(label.split())
    return any(words & set(other.split()) for other in labels)


def row(task: str, source: str, schema, text: str, answer) -> dict[str, str]:
    instruction = {"instruction": TASKS[task].instruction["en"], "schema": schema, "input": text}
    return {
        "task": task,
        "source": source,
        "instruction": json.dumps(instruction, ensure_ascii=False),
        "output": json.dumps(answer, ensure_ascii=False),
    }


def triples(sets, names, rng):
    name = weighted(RE, rng)
    held = sets[name]
    label = rng.choice(held.labels)
    drawn = passage(held, held.draw(rng, label), "relation", rng)
    if drawn is None:
        return None
    text, items, rewrite = drawn
    shown = rewrite(text)
    found = defaultdict(list)
    for item in items:
        pair = {"subject": rewrite(item["head"]), "object": rewrite(item["tail"])}
        if pair["subject"] not in shown or pair["object"] not in shown:
            return None
        if pair not in found[item["relation"]]:
            found[item["relation"]].append(pair)
    wanted = rng.choice([1, 1, 2, 3, 4, 4])
    present = list(found)
    rng.shuffle(present)
    asked = present[: max(1, round(wanted * 0.6))]
    absent = [each for each in held.labels if each not in found and not related(each, present)]
    rng.shuffle(absent)
    asked += absent[: max(0, wanted - len(asked))]
    rng.shuffle(asked)
    types = [written(label, names, rng) for label in asked]
    if len(set(types)) < len(types):
        return None
    answer = {
        t: sorted(
            found.get(each, ()), key=lambda p: (shown.find(p["subject"]), shown.find(p["object"]))
        )
        for t, each in zip(types, asked, strict=True)
    }
    return row("RE", name, types, shown, answer)


def attributes(held, rng):
    drawn = passage(held, held.draw(rng, rng.choice(held.labels)), "relation", rng)
    if drawn is None:
        return None
    text, items, rewrite = drawn
    shown = rewrite(text)
    by_type = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for item in items:
        head, tail = rewrite(item["head"]), rewrite(item["tail"])
        if not item["head_type"] or head not in shown or tail not in shown:
            return None
        values = by_type[item["head_type"]][head][item["relation"]]
        if tail not in values:
            values.append(tail)
    if not by_type:
        return None
    kind = rng.choice(sorted(by_type))
    present = sorted({r for held_ in by_type[kind].values() for r in held_})
    absent = [each for each in held.labels if not related(each, present) and each not in present]
    asked = present + rng.sample(absent, rng.choice([0, 1, 1, 2, 3]))
    rng.shuffle(asked)
    answer = {}
    for head in sorted(by_type[kind], key=shown.find):
        answer[head] = {
            r: v[0] if len(v) == 1 else v for r in asked if (v := by_type[kind][head].get(r))
        }
    kind_name = "person" if kind == "human" and rng.random() < 0.7 else kind
    return row(
        "KG",
        held.name,
        [{"entity_type": kind_name, "attributes": asked}],
        shown,
        {kind_name: answer},
    )


def happenings(held, roles, rng):
    drawn = passage(held, held.draw(rng, rng.choice(held.labels)), "event", rng)
    if drawn is None:
        return None
    text, items, rewrite = drawn
    shown = rewrite(text)
    found = defaultdict(list)
    for item in items:
        trigger = rewrite(item["event_trigger"])
        arguments = defaultdict(list)
        for argument in item["arguments"]:
            value = rewrite(argument["argument"])
            if value not in shown:
                return None
            arguments[argument["role"]].append(value)
        if trigger not in shown:
            return None
        found[item["event_type"]].append((trigger, arguments))
    wanted = rng.choice([1, 2, 3, 4])
    asked = list(found)[: max(1, round(wanted * 0.6))]
    absent = [each for each in held.labels if each not in found]
    asked += rng.sample(absent, max(0, wanted - len(asked)))
    rng.shuffle(asked)
    schema, answer = [], {}
    for label in asked:
        named = sorted({r for _, a in found.get(label, ()) for r in a})
        other = [r for r in roles.get(label, ()) if r not in named]
        keep = named + rng.sample(other, min(len(other), rng.choice([0, 1, 2])))
        rng.shuffle(keep)
        schema.append({"event_type": label, "trigger": True, "arguments": keep})
        answer[label] = [
            {
                "trigger": t,
                "arguments": {
                    r: (a[r][0] if len(a[r]) == 1 else a[r]) if r in a else "NAN" for r in keep
                },
            }
            for t, a in sorted(found.get(label, ()), key=lambda e: shown.find(e[0]))
        ]
    return row("EE", held.name, schema, shown, answer)


if __name__ == "__main__":
    main()
