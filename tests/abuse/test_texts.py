"""Any text, any schema, any choice of tokens: valid answers, the schema's keys, true places."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from abuse.backends import install, tell
from abuse.counting import count
from abuse.program import call, check_manners, check_result, rows
from abuse.strategies import (
    SCHEMAS,
    any_text,
    attack,
    json_values,
    keys_of,
    names,
    texts,
)
from hypothesis import strategies as st

EACH = 20


def examples(share: int, whole: int) -> Any:
    """So many examples in the default suite, and so many when attacks are asked for."""
    marked = pytest.param(whole, marks=pytest.mark.abuse, id="whole")
    return pytest.mark.parametrize("examples", [pytest.param(share, id="share"), marked])


def extracted(
    folder: Path, task: str, schema: Any, documents: list[str], *options: str
) -> list[dict[str, Any]] | None:
    """The results of texts; None for a schema that was refused."""
    asked, source = folder / "schema.json", folder / "texts.jsonl"
    asked.write_text(json.dumps(schema))
    before = "".join(json.dumps({"text": text}) + "\n" for text in documents)
    source.write_text(before)
    done = call("extract", "-q", "--task", task, "--schema", asked, source, *options)
    check_manners(done)
    assert source.read_text() == before
    if done.code == 2 or (done.code == 1 and "schema.json" in done.err):
        return None
    found = rows(done.out)
    # Every text is answered, or named on stderr.
    told = [line for line in done.err.split("\n") if f"{source}:" in line]
    assert len(found) + len(told) == len(documents), done.err
    return found


def as_read(text: str) -> str:
    """A text as results count it: half characters, which no encoding holds, are replaced."""
    return "".join("\ufffd" if "\ud800" <= sign <= "\udfff" else sign for sign in text)


@pytest.mark.parametrize("task", SCHEMAS)
@examples(1, 30)
def test_any_choice_of_tokens(
    task: str, examples: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install()
    size = EACH if examples > 1 else 4
    documents = st.lists(texts, min_size=size, max_size=size)

    # Schemas of EE are small more often than others, and their answers short.
    examples *= 2 if task == "EE" and examples > 1 else 1
    arguments = {"asked": SCHEMAS[task], "documents": documents, "seed": st.integers(0, 2**32)}

    @attack(examples, repeats=False, **arguments)
    def _(asked: tuple[str, Any], documents: list[str], seed: int) -> None:
        monkeypatch.setenv("ABUSE_SEED", str(seed))
        options = ("--backend", "random", "--answer-tokens", "40")
        found = extracted(tmp_path, *asked, documents, *options)
        if found is None:
            count(f"schemas of {task} refused in one line")
            return
        keys = keys_of(*asked)
        for row in found:
            check_result(row, as_read(documents[row["line"] - 1]), keys)
            assert row["task"] == task
            assert not row.get("ungrounded")
            assert not row.get("problems")
        count("texts answered at random", len(documents))


ANSWERS = [
    '{"KEY": ["Ann", "Oslo", "nobody", 3, null, ["Bob"], {"a": "b"}]}',
    '{"KEY": {"Ann": {"x": "Bob"}}}',
    '{"KEY": [{"subject": "Ann", "object": "Oslo"}, {"subject": "Ann"}, {"object": 3}]}',
    '{"KEY": [{"trigger": "bombed", "arguments": {"x": ["Ann", {}], "y": "NAN"}}]}',
    '{"KEY": [{"trigger": null, "arguments": []}], "KEY": ["Ann"], "other": ["Ann"]}',
    '```json\n{"KEY": ["Ann"]}\n```',
    "Sure! Here it is: {'KEY': ['Ann',]}",
    '{"KEY": ["Ann", "Bo',
    "[" * 3000,
    '{"KEY":' * 2000,
    "",
    "null",
    "NaN",
    '"Ann"',
    "1e999",
    "\x00",
    "\ufeff{}",
]
answers = st.one_of(
    st.sampled_from(ANSWERS),
    any_text,
    json_values.map(lambda value: json.dumps({"KEY": value})),
    json_values.map(json.dumps),
    st.lists(st.sampled_from(ANSWERS), min_size=2, max_size=3).map("".join),
)


@pytest.mark.parametrize("task", SCHEMAS)
@examples(2, 150)
def test_any_answer_of_a_server(task: str, examples: int, tmp_path: Path) -> None:
    install()

    @attack(
        examples,
        asked=SCHEMAS[task],
        documents=st.lists(texts, min_size=8, max_size=8),
        said=st.lists(answers, min_size=1, max_size=8),
    )
    def _(asked: tuple[str, Any], documents: list[str], said: list[str]) -> None:
        tell(said[number % len(said)] for number in range(100_000))
        found = extracted(tmp_path, *asked, documents, "--backend", "liar", "--no-constrain")
        if found is None:
            return
        for row in found:
            check_result(row, as_read(documents[row["line"] - 1]), keys_of(*asked))
        count("answers of every form, grounded or dropped", len(documents))


@examples(10, 2000)
def test_any_schema(examples: int, tmp_path: Path) -> None:
    install()
    odd = st.one_of(
        json_values,
        st.lists(names | st.just(""), max_size=8),
        st.dictionaries(names, slot_names | json_values, max_size=5),
        st.fixed_dictionaries(
            {"task": json_values | st.sampled_from([*SCHEMAS]), "schema": json_values}
        ),
    )

    @attack(examples, schema=odd, task=st.sampled_from([None, *SCHEMAS]))
    def _(schema: Any, task: str | None) -> None:
        path = tmp_path / "schema.json"
        path.write_text(json.dumps(schema))
        named = ("--task", task) if task else ()
        words = ("extract", "-q", *named, "--schema", path, "--backend", "random")
        done = call(*words, "--answer-tokens", "30", stdin=b"Ann met Bob in Oslo.")
        check_manners(done, codes=frozenset({0, 1, 2}))
        if done.code:
            assert done.err.count("\n") == 1
            assert done.out == b""
        else:
            (row,) = rows(done.out)
            check_result(row, "Ann met Bob in Oslo.", list(row["answer"]))
        count("schemas of every form, used or refused in one line")


slot_names = st.lists(names, max_size=4)


@examples(20, 3000)
def test_any_expression(examples: int) -> None:
    """Schemas on the command line: read, or refused in one line."""
    install()
    signs = st.sampled_from(
        [*"(){}[],;->\\\"'@", " -", "-> ", "，", "（", "）", "a", "b c", "人", "\n"]
    )
    expressions = st.lists(signs | names, max_size=12).map("".join) | any_text

    @attack(examples, expression=expressions, task=st.sampled_from([None, *SCHEMAS]))
    def _(expression: str, task: str | None) -> None:
        if "\x00" in expression or as_read(expression) != expression:
            # No shell can pass these.
            return
        named = ("--task", task) if task else ()
        words = ("extract", "-q", *named, f"--schema={expression}", "--backend", "random")
        done = call(*words, "--answer-tokens", "20", stdin=b"Ann met Bob in Oslo.")
        check_manners(done, codes=frozenset({0, 1, 2}))
        if done.code:
            assert done.err.count("\n") == 1
        else:
            (row,) = rows(done.out)
            check_result(row, "Ann met Bob in Oslo.", list(row["answer"]))
        count("schemas on the command line, used or refused in one line")


@pytest.mark.abuse
@pytest.mark.model
@pytest.mark.parametrize("task", SCHEMAS)
def test_the_embedded_model(task: str, tmp_path: Path) -> None:
    """The same promises with the model that comes with the program."""

    @attack(3, asked=SCHEMAS[task], documents=st.lists(texts, min_size=15, max_size=15))
    def _(asked: tuple[str, Any], documents: list[str]) -> None:
        named, schema = asked
        found = extracted(tmp_path, named, schema[:6], documents, "--answer-tokens", "40")
        for row in found or ():
            check_result(row, as_read(documents[row["line"] - 1]), keys_of(named, schema[:6]))
            assert not row.get("ungrounded")
        count(f"passages answered by the embedded model, {task}", len(documents))
