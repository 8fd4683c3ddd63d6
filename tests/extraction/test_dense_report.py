"""A dense report of a page: what is found in it is what is found in its sentences one by one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from iepile_cli.backends import Options
from iepile_cli.backends.opening import Opened, open_model
from iepile_cli.extraction.inputs import Document
from iepile_cli.extraction.pipeline import ExtractOptions, extract
from iepile_cli.extraction.readings import schema_readings
from iepile_cli.models import resolve_model
from iepile_cli.models.adapter_settings import (
    AdapterSettings,
    TaskSettings,
    read_adapter_settings,
)
from iepile_cli.task.schema import read_schema
from iepile_cli.task.shape import SchemaItem
from iepile_cli.task.table import TASKS
from iepile_cli.templates import AUTO

# Each name is there once: a mention that is found is found at every place where it stands.
FIRST = [
    "Ada",
    "Rui",
    "Mei",
    "Ines",
    "Karim",
    "Julia",
    "Peter",
    "Sofia",
    "Omar",
    "Elena",
    "Jonas",
    "Clara",
]
LAST = ["Keller", "Sousa", "Novak", "Haddad", "Brandt", "Lindgren", "Ferreira", "Okafor"]
PEOPLE = [f"{FIRST[n % 12]} {LAST[(n + n // 12) % 8]}" for n in range(60)]
PLACES = [
    "Hamburg",
    "Lisbon",
    "Oslo",
    "Vienna",
    "Porto",
    "Geneva",
    "Dublin",
    "Madrid",
    "Prague",
    "Warsaw",
    "Athens",
    "Zurich",
    "Milan",
    "Turin",
    "Lyon",
    "Bremen",
    "Krakow",
    "Seville",
    "Malmo",
    "Bergen",
    "Tallinn",
    "Vilnius",
    "Ghent",
    "Basel",
    "Leeds",
    "Bristol",
    "Glasgow",
    "Nantes",
    "Cologne",
    "Dresden",
    "Leipzig",
    "Bologna",
    "Naples",
    "Valencia",
    "Bilbao",
    "Utrecht",
    "Aarhus",
    "Tampere",
    "Graz",
    "Linz",
]
WHAT = ["Steel", "Bank", "Shipping", "Energy", "Foods", "Motors"]
WHOSE = [
    "Northwind",
    "Halden",
    "Orion",
    "Vestra",
    "Acme",
    "Kestrel",
    "Lumen",
    "Harbor",
    "Summit",
    "Delta",
]
COMPANIES = [f"{WHOSE[n % 10]} {WHAT[(n + n // 10) % 6]}" for n in range(60)]
SENTENCES = (
    "{a}, a spokesman for {c}, told reporters in {p} that the new plant would open in spring.",
    "The mayor of {p}, {a}, signed the contract with {c} on Monday.",
    "{c} has hired {a} from {d} to lead its office in {q}.",
    "In {p}, {a} met {b} to talk about the loan from {c}.",
    "Shares of {c} fell after {a} left the company for {d}.",
)


Mentions = set[tuple[str, int, str]]
KINDS = {"person": PEOPLE, "location": PLACES, "organization": COMPANIES}


def report() -> list[str]:
    """A page of 3,500 characters and more in sentences, each with several mentions."""
    people, places, companies = map(iter, (PEOPLE, PLACES, COMPANIES))
    sentences = []
    for n in range(40):
        form = SENTENCES[n % len(SENTENCES)]
        names = {"a": people, "b": people, "c": companies, "d": companies, "p": places, "q": places}
        used = {slot: next(names[slot]) for slot in names if f"{{{slot}}}" in form}
        sentences.append(form.format(**used))
    return sentences


def gold(page: str) -> Mentions:
    """All mentions of a page, with their places."""
    return {
        (kind, match.start(), name)
        for kind, names in KINDS.items()
        for name in names
        for match in re.finditer(re.escape(name), page)
    }


def f1(mentions: Mentions, expected: Mentions) -> float:
    return 2 * len(mentions & expected) / (len(mentions) + len(expected))


def found(opened: Opened, texts: Sequence[str]) -> Mentions:
    """Types, places in the whole report, and mentions."""
    task, schema = read_schema(["person,location,organization"])
    options = ExtractOptions(language="en").suiting(opened)
    documents = [Document("report", text, line=n) for n, text in enumerate(texts)]
    mentions, start = set(), 0
    results = extract(documents, opened.runner, opened.template, options, task=task, schema=schema)
    for text, result in zip(texts, results, strict=True):
        for item in result.items:
            for _, span in item.roles:
                for begin, end in span.occurrences or ((span.start, span.end),):
                    mentions.add((item.item.type, start + begin, text[begin:end]))
        start += len(text) + 1
    return mentions


@pytest.mark.model
def test_a_page_is_as_good_as_its_sentences() -> None:
    sentences = report()
    page = " ".join(sentences)
    assert 3_500 < len(page) < 4_400
    opened = open_model(options=Options(threads=2))
    try:
        whole, single = found(opened, [page]), found(opened, sentences)
    finally:
        opened.runner.close()
    expected = gold(page)
    assert f1(single, expected) > 0.5
    assert f1(whole, expected) >= 0.95 * f1(single, expected)


@pytest.mark.parametrize(("records", "expected"), [(False, 32), (True, 0)])
def test_the_adapter_says_how_long_passages_are(records: bool, expected: int) -> None:
    """Unless asked for otherwise, and never of records, which are put to the letter."""
    opened = Opened(None, AUTO, resolve_model(), "llama-cpp")  # type: ignore[arg-type]
    suiting = ExtractOptions().suiting(opened, records=records)
    assert suiting.passage_tokens == expected
    asked = ExtractOptions(passage_tokens=64).suiting(opened, records=records)
    assert asked.passage_tokens == 64


def test_an_adapter_of_the_user_s_own_says_it_in_its_settings(tmp_path: Path) -> None:
    by_task = {"RE": TaskSettings(min_score=0.5, split_num=(8, 20))}
    settings = AdapterSettings("auto", "0" * 64, "smollm2", passage_tokens=80, by_task=by_task)
    settings.write(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    found = resolve_model("smollm2", [str(tmp_path)])
    assert (found.passage_tokens, found.by_task) == (80, by_task)


def test_the_least_score_is_the_adapter_s_for_each_task_unless_asked() -> None:
    found = replace(resolve_model(), by_task={"NER": TaskSettings(0.25), "RE": TaskSettings(0.5)})
    opened = Opened(None, AUTO, found, "llama-cpp")  # type: ignore[arg-type]
    tasks = [TASKS[name] for name in ("NER", "RE", "EE")]
    usual, asked = (ExtractOptions(min_score=s).suiting(opened) for s in (None, 0.4))
    assert [usual.least_score(task) for task in tasks] == [0.25, 0.5, 0.0]
    assert [asked.least_score(task) for task in tasks] == [0.4, 0.4, 0.4]


def test_so_many_types_at_once_as_the_adapter_answers_best_unless_asked() -> None:
    found = replace(resolve_model(), by_task={"NER": TaskSettings(split_num=(2,))})
    opened = Opened(None, AUTO, found, "llama-cpp")  # type: ignore[arg-type]
    task, schema = read_schema(["a,b,c,d,e"])

    def sizes(how: ExtractOptions) -> list[int]:
        _, (only,) = schema_readings(task, schema, how)
        return [len(batch) for batch in only]

    assert sizes(ExtractOptions()) == [5]
    assert sizes(ExtractOptions().suiting(opened)) == [2, 2, 1]
    assert sizes(ExtractOptions(split_num=4).suiting(opened)) == [5]
    assert sizes(ExtractOptions(split_num=1).suiting(opened)) == [1] * 5


def test_of_several_sizes_each_is_a_reading_where_it_cuts_the_schema_otherwise() -> None:
    by_task = {"NER": TaskSettings(split_num=(2, 4, -1))}
    task, long = read_schema(["a,b,c,d,e"])

    def sizes(schema: Sequence[SchemaItem], **how: Any) -> tuple[int, list[list[int]]]:
        votes, readings = schema_readings(task, schema, ExtractOptions(by_task=by_task, **how))
        return votes, [[len(batch) for batch in reading] for reading in readings]

    # Of five types, 4 and all are one batch.
    assert sizes(long) == (2, [[2, 2, 1], [5]])
    assert sizes(long[:2]) == (1, [[2]])
    assert sizes(long, votes=1) == (1, [[2, 2, 1]])
    assert sizes(long, votes=3) == (3, [[2, 2, 1], [5], [2, 2, 1]])
    assert sizes(long, split_num=3) == (1, [[3, 2]])
    assert sizes(long, passes=2) == (2, [[2, 2, 1], [5], [2, 2, 1], [5]])
    assert sizes(long[:1], votes=3) == (3, [[1]])
    # A server's answers have no scores to take the mean of.
    found = replace(resolve_model(), by_task=by_task)
    opened = Opened(None, AUTO, found, "openai", remote=True)  # type: ignore[arg-type]
    assert schema_readings(task, long, ExtractOptions().suiting(opened))[0] == 1
    _, (first, second) = schema_readings(task, long, ExtractOptions(by_task=by_task))
    assert [one.type for batch in first for one in batch] == list("abcde")
    assert [one.type for batch in second for one in batch] == list("edcba")


def test_one_size_in_a_file_is_a_list_of_it(tmp_path: Path) -> None:
    for written, read in (("8", (8,)), ("[6, 20]", (6, 20)), ("null", ()), ("[]", ())):
        settings = AdapterSettings("auto", "0" * 64, "smollm2").as_json()
        (tmp_path / "iepile.json").write_text(
            settings.replace('"by_task": {}', f'"by_task": {{"NER": {{"split_num": {written}}}}}')
        )
        found = read_adapter_settings(tmp_path)
        assert found is not None
        assert found.by_task == {"NER": TaskSettings(split_num=read)}
