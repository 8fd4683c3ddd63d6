"""Answers that are malformed or odd: each has its counts, none raises."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from evaluation_rows import counts, ner, row, scored, write

from iepile_cli.evaluation.decoding import is_cut

GOLD = ner(("Ann", "PER"), ("Rome", "LOC"))
RIGHT = '{"PER": ["Ann"], "LOC": ["Rome"]}'
DEEP = 100_000

# name: the answer, and then predicted, correct, malformed and truncated (gold is always 2).
NER: dict[str, tuple[Any, int, int, int, int]] = {
    "right": (RIGHT, 2, 2, 0, 0),
    "empty string": ("", 0, 0, 1, 0),
    "only white space": (" \n\t", 0, 0, 1, 0),
    "empty object": ("{}", 0, 0, 0, 0),
    "white space around": (f"\n {RIGHT}\r\n", 2, 2, 0, 0),
    "byte order mark": ("\ufeff" + RIGHT, 0, 0, 1, 0),
    "open brace": ("{", 0, 0, 1, 1),
    "cut in a string": ('{"PER": ["Ann"], "LOC": ["Ro', 0, 0, 1, 1),
    "cut after a comma": ('{"PER": ["Ann"],', 0, 0, 1, 1),
    "cut in an escape": ('{"PER": ["An\\', 0, 0, 1, 1),
    "cut before the last brace": ('{"PER": ["Ann"]', 0, 0, 1, 1),
    "one brace too many": (RIGHT + "}", 0, 0, 1, 0),
    "two objects": (RIGHT + RIGHT, 0, 0, 1, 0),
    "code fence": (f"```json\n{RIGHT}\n```", 0, 0, 1, 0),
    "prose before": ("Sure! " + RIGHT, 0, 0, 1, 0),
    "prose after": (RIGHT + " I hope this helps.", 0, 0, 1, 0),
    "single quotes": ("{'PER': ['Ann']}", 0, 0, 1, 0),
    "trailing comma": ('{"PER": ["Ann",]}', 0, 0, 1, 0),
    "comment": ('{"PER": ["Ann"] // yes\n}', 0, 0, 1, 0),
    "bare word": ("none", 0, 0, 1, 0),
    "a list": ('[{"PER": ["Ann"]}]', 0, 0, 1, 0),
    "a string": ('"PER"', 0, 0, 1, 0),
    "a number": ("3", 0, 0, 1, 0),
    "null": ("null", 0, 0, 1, 0),
    "true": ("true", 0, 0, 1, 0),
    "NaN alone": ("NaN", 0, 0, 1, 0),
    "NaN inside": ('{"PER": ["Ann"], "LOC": NaN}', 1, 1, 0, 0),
    "infinities inside": (
        '{"PER": ["Ann", -Infinity], "LOC": ["Rome"], "x": Infinity}',
        2,
        2,
        0,
        0,
    ),
    "key twice, the last counts": ('{"PER": ["Ann"], "PER": []}', 0, 0, 0, 0),
    "key twice, the last is right": ('{"PER": ["x"], "PER": ["Ann"]}', 1, 1, 0, 0),
    "extra key": ('{"PER": ["Ann"], "LOC": ["Rome"], "ZZ": ["q"]}', 3, 2, 0, 0),
    "empty key": ('{"": ["Ann"]}', 1, 0, 0, 0),
    "key in other case": ('{"per": ["Ann"]}', 1, 0, 0, 0),
    "value a string": ('{"PER": "Ann", "LOC": ["Rome"]}', 1, 1, 0, 0),
    "value null": ('{"PER": null, "LOC": ["Rome"]}', 1, 1, 0, 0),
    "value an object": ('{"PER": {"Ann": 1}, "LOC": ["Rome"]}', 1, 1, 0, 0),
    "value a number": ('{"PER": 7, "LOC": ["Rome"]}', 1, 1, 0, 0),
    "mentions that are none": ('{"PER": ["Ann", 3, null, true, {"a": 1}]}', 1, 1, 0, 0),
    "nested list": ('{"PER": [["Ann"]], "LOC": [["Rome"], "Rome"]}', 1, 1, 0, 0),
    "empty mention": ('{"PER": ["Ann", ""]}', 2, 1, 0, 0),
    "NAN as a mention": ('{"PER": ["Ann", "NAN"]}', 2, 1, 0, 0),
    "space around a mention": ('{"PER": [" Ann"]}', 1, 0, 0, 0),
    "same mention three times": ('{"PER": ["Ann", "Ann", "Ann"]}', 3, 1, 0, 0),
    "objects as in relations": ('{"PER": [{"subject": "Ann"}]}', 0, 0, 0, 0),
    "escaped letters": ('{"PER": ["\\u0041nn"]}', 1, 1, 0, 0),
    "lone surrogate": ('{"PER": ["\\ud800"], "LOC": ["Rome"]}', 2, 1, 0, 0),
    "surrogates the wrong way round": ('{"PER": ["\\udc00\\ud83d"]}', 1, 0, 0, 0),
    "surrogate as key": ('{"\\udfff": ["Ann"]}', 1, 0, 0, 0),
    "null character": ('{"PER": ["Ann\\u0000"]}', 1, 0, 0, 0),
    "raw line end in a string": ('{"PER": ["An\nn"]}', 0, 0, 1, 0),
    "deep lists": ('{"PER": ' + "[" * DEEP + "]" * DEEP + "}", 0, 0, 1, 0),
    "deep lists, never closed": ('{"PER": ' + "[" * DEEP, 0, 0, 1, 1),
    "deep objects": ('{"a":' * DEEP + "1" + "}" * DEEP, 0, 0, 1, 0),
    "number of 10 000 digits": ('{"PER": ["Ann", ' + "9" * 10_000 + "]}", 1, 1, 0, 0),
    "float out of range": ('{"PER": ["Ann", 1e999]}', 1, 1, 0, 0),
    "mention of 10 MB": ('{"PER": ["' + "x" * 10_000_000 + '", "Ann"]}', 2, 1, 0, 0),
    "10 MB of garbage": ("x" * 10_000_000, 0, 0, 1, 0),
    "10 MB string, never closed": ('{"PER": ["' + "x" * 10_000_000, 0, 0, 1, 1),
    "10 MB of braces": ("{" * 10_000_000, 0, 0, 1, 1),
    "50 000 mentions": (json.dumps({"PER": ["Ann"] * 50_000}), 50_000, 1, 0, 0),
    "20 000 keys": (json.dumps({f"k{n}": ["Ann"] for n in range(20_000)}), 20_000, 0, 0, 0),
}


@pytest.mark.parametrize("name", NER)
def test_odd_entity_answer(name: str, tmp_path: Path) -> None:
    output, predicted, correct, malformed, truncated = NER[name]
    scores = scored(write(tmp_path / "p.jsonl", [row(output, GOLD)]))
    assert counts(scores) == (2, predicted, correct)
    assert scores.rows["malformed"] == malformed
    assert scores.rows["truncated"] == truncated
    assert scores.documents == 1


def test_there_are_sixty_cases() -> None:
    assert len(NER) >= 60


@pytest.mark.parametrize("mode", ["boundary", "partial", "type"])
@pytest.mark.parametrize("name", [name for name in NER if "000" not in name])
def test_odd_answers_in_other_modes_do_not_raise(name: str, mode: str, tmp_path: Path) -> None:
    scores = scored(write(tmp_path / "p.jsonl", [row(NER[name][0], GOLD)]), mode=mode)
    assert counts(scores)[:2] == (2, NER[name][1])


EVENTS = [
    {
        "event_type": "Hit",
        "event_trigger": "hit",
        "arguments": [{"role": "agent", "argument": "Ann"}, {"role": "victim", "argument": "Bob"}],
    }
]
# The answer under the type, then predicted and correct events, predicted and correct arguments.
EE: dict[str, tuple[str, int, int, int, int]] = {
    "right": ('[{"trigger": "hit", "arguments": {"agent": "Ann", "victim": "Bob"}}]', 1, 1, 2, 2),
    "arguments as list": ('[{"trigger": "hit", "arguments": ["Ann"]}]', 1, 1, 0, 0),
    "arguments null": ('[{"trigger": "hit", "arguments": null}]', 1, 1, 0, 0),
    "arguments a string": ('[{"trigger": "hit", "arguments": "NAN"}]', 1, 1, 0, 0),
    "argument an object": ('[{"trigger": "hit", "arguments": {"agent": {"a": 1}}}]', 1, 1, 0, 0),
    "argument a number": ('[{"trigger": "hit", "arguments": {"agent": 3}}]', 1, 1, 1, 0),
    "argument null and empty": (
        '[{"trigger": "hit", "arguments": {"agent": null, "victim": ""}}]',
        1,
        1,
        0,
        0,
    ),
    "argument in nested list": (
        '[{"trigger": "hit", "arguments": {"agent": [["Ann"], "Ann"]}}]',
        1,
        1,
        1,
        1,
    ),
    "trigger a list": ('[{"trigger": ["hit"], "arguments": {"agent": "Ann"}}]', 0, 0, 0, 0),
    "trigger null": ('[{"trigger": null, "arguments": {"agent": "Ann"}}]', 0, 0, 0, 0),
    "trigger missing": ('[{"arguments": {"agent": "Ann"}}]', 1, 0, 1, 1),
    "event a string": ('["hit"]', 0, 0, 0, 0),
    "an object for the list": ('{"trigger": "hit"}', 0, 0, 0, 0),
    "unasked role": ('[{"trigger": "hit", "arguments": {"weapon": "stone"}}]', 1, 1, 1, 0),
}


@pytest.mark.parametrize("match", ["multiset", "set"])
@pytest.mark.parametrize("name", EE)
def test_odd_event_answer(name: str, match: str, tmp_path: Path) -> None:
    value, *expected = EE[name]
    path = write(tmp_path / "p.jsonl", [row(f'{{"Hit": {value}}}', EVENTS, task="EE")])
    scores = scored(path, match=match)
    assert [*counts(scores)[1:], *counts(scores, 1)[1:]] == expected
    assert scores.rows["malformed"] == 0


KG = {
    "right": ('{"Ann": {"city": "Rome"}}', 1, 1),
    "value in a list": ('{"Ann": {"city": ["Rome", "Bonn"]}}', 2, 1),
    "no attributes": ('{"Ann": {}}', 0, 0),
    "attributes a string": ('{"Ann": "Rome"}', 0, 0),
    "a list for the object": ('["Ann"]', 0, 0),
    "value an object": ('{"Ann": {"city": {"name": "Rome"}}}', 0, 0),
    "value null": ('{"Ann": {"city": null}}', 0, 0),
}


@pytest.mark.parametrize("name", KG)
def test_odd_attribute_answer(name: str, tmp_path: Path) -> None:
    value, *expected = KG[name]
    gold = [{"head": "Ann", "head_type": "person", "relation": "city", "tail": "Rome"}]
    path = write(tmp_path / "p.jsonl", [row(f'{{"person": {value}}}', gold, task="KG")])
    assert list(counts(scored(path))[1:]) == expected


LABELS = ["", "oops", "{}", "3", "null", "[3]", "[[]]", '[{"entity": 3}]', '[{"entity": "Ann"}]']


@pytest.mark.parametrize("label", LABELS)
def test_odd_label_is_reported_or_left_out(label: str, tmp_path: Path) -> None:
    rows = [row(RIGHT, label, text="Ann is here"), row(RIGHT, GOLD)]
    scores = scored(write(tmp_path / "p.jsonl", rows))
    gold = counts(scores)[0]
    assert gold == 2
    assert scores.documents + scores.rows["unlabelled"] == 2


LINES = {
    "not JSON": b"oops",
    "a list": b"[1]",
    "broken UTF-8": b'{"task": "NER", "id": "\xff\xfe", "label": "[]", "output": "{}"}',
    "lone surrogate": b'{"task": "NER", "id": "\\ud800", "label": "[]", "output": "{}"}',
    "NaN": b'{"task": "NER", "id": NaN, "label": "[]", "output": "{}"}',
    "deep": b"[" * DEEP,
    "task of another kind": b'{"task": ["NER"], "output": "{}"}',
    "unknown task": b'{"task": "XYZ", "output": "{}"}',
    "instruction no JSON": b'{"task": "NER", "instruction": "hm", "label": "[]", "output": "{}"}',
    "instruction a list": b'{"task": "NER", "instruction": [], "label": "[]", "output": "{}"}',
    "schema of objects": b'{"task": "NER", "label": "[]", "output": "{}",'
    b' "instruction": "{\\"schema\\": [{}], \\"input\\": \\"\\"}"}',
    "id an object": b'{"task": "NER", "id": {}, "label": "[]", "output": "{}"}',
    "blank": b"   ",
    "null bytes": b"\x00\x00",
    "output an object": b'{"task": "NER", "id": 1, "label": [], "output": {}}',
}
UNREADABLE = {
    *("not JSON", "a list", "deep", "task of another kind", "unknown task"),
    # As convert has it: a record is JSON in valid Unicode.
    *("broken UTF-8", "lone surrogate", "NaN"),
}


@pytest.mark.parametrize("name", LINES)
def test_odd_row_leaves_the_others_alone(name: str, tmp_path: Path) -> None:
    from iepile_cli.evaluation import EvalOptions, evaluate

    path = write(tmp_path / "p.jsonl", [row(RIGHT, GOLD), LINES[name], row(RIGHT, GOLD, source=2)])
    with evaluate(path, EvalOptions(resamples=0)) as evaluation:
        assert counts(evaluation.scores["NER"]) == (4, 4, 4)
        assert evaluation.counts.unreadable == (name in UNREADABLE)


def test_repair_is_counted_apart(tmp_path: Path) -> None:
    from iepile_cli.evaluation import EvalOptions, evaluate

    broken = [
        "```json\n" + RIGHT + "\n```",
        "Sure! " + RIGHT + " Done.",
        '{"PER": ["Ann"], "LOC": ["Rome"',
        "{'PER': ['Ann'], 'LOC': ['Rome']}",
        "no idea",
        "x" * 300_000 + "{",
        "{" * 5000,
    ]
    rows = [row(output, GOLD, text=f"Ann in Rome {n}") for n, output in enumerate(broken)]
    path = write(tmp_path / "p.jsonl", rows)
    with evaluate(path, EvalOptions(resamples=0, repair=True)) as evaluation:
        scores = evaluation.scores["NER"]
        strict = evaluation.unrepaired["NER"]
    assert counts(scores) == (14, 8, 8)
    assert scores.rows["repaired"] == 4
    assert scores.rows["malformed"] == 3
    assert counts(strict) == (14, 0, 0)
    assert strict.rows["malformed"] == 7


def test_cut_answer_full_of_quotes_takes_time_in_proportion() -> None:
    # A model that repeats itself until its tokens are used up.
    answer = '{"PER": ["' + '\\"' * 50_000
    start = time.process_time()
    assert is_cut(answer)
    assert time.process_time() - start < 2


def test_truncated_flag_and_missing_output(tmp_path: Path) -> None:
    rows = [
        row(RIGHT, GOLD, text="one", truncated=True),
        row(None, GOLD, text="two"),
        {**row(None, GOLD, text="three"), "output": None},
    ]
    scores = scored(write(tmp_path / "p.jsonl", rows))
    assert counts(scores) == (6, 2, 2)
    assert scores.rows["truncated"] == 1
    assert scores.rows["without_output"] == 2
    assert scores.rows["malformed"] == 2


def test_hallucinated_are_mentions_that_are_not_in_the_text(tmp_path: Path) -> None:
    rows = [row({"PER": ["Ann", "Zoe"], "LOC": ["rome"]}, GOLD, text='A "quoted" Ann\nin Rome')]
    scores = scored(write(tmp_path / "p.jsonl", rows))
    assert scores.units[0].micro.hallucinated == 2
    assert scores.units[0].types["PER"].hallucinated == 1
