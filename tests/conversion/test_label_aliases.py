"""``--label-aliases``: the same annotation under other names and coarser labels; ``--sample``."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from iepile_cli.conversion.label_aliases import LabelAliases, Naming, draw_naming
from iepile_cli.task.shape import SchemaItem

ALIASES = """
split_num = [2, 5]

[names]
person = ["person", "human", "PER"]
city = ["city", "town"]
river = []
"any place" = ["location", "place"]

[groups]
"any place" = ["city", "country"]

[sets.novels.names]
person = ["character"]
"""
TEXT = "Ann of Oslo, Norway, swam the Glomma to Oslo."
GOLD = [("Ann", "person"), ("Oslo", "city"), ("Norway", "country"), ("Glomma", "river")]
TYPES = ["person", "city", "country", "river", "vehicle"]
NAMES = {
    "Ann": {"person", "human", "PER"},
    "Oslo": {"city", "town", "location", "place"},
    "Norway": {"country", "location", "place"},
}
MOST = 64


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    folder.mkdir()
    entities = [{"entity": mention, "entity_type": kind} for mention, kind in GOLD]
    records = [{"text": f"{number} {TEXT}", "entity": entities} for number in range(400)]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "train.json").write_text(lines, encoding="utf-8")
    (folder / "schema.json").write_text(f"{json.dumps(TYPES)}\n[]\n{{}}\n", encoding="utf-8")
    (tmp_path / "labels.toml").write_text(ALIASES, encoding="utf-8")
    return tmp_path


def rows(out: str) -> list[tuple[dict[str, Any], dict[str, list[str]]]]:
    made = [json.loads(line) for line in out.splitlines()]
    return [(json.loads(row["instruction"]), json.loads(row["output"])) for row in made]


def test_schema_and_answer_are_renamed_alike(run: Any, corpus: Path) -> None:
    done = run("convert", corpus / "set/train.json", "--label-aliases", corpus / "labels.toml")
    assert done.code == 0
    seen: dict[str, set[str]] = {mention: set() for mention in NAMES}
    sizes = set()
    by_text: dict[str, dict[str, list[str]]] = {}
    for asked, answer in rows(done.out):
        assert list(answer) == asked["schema"]
        sizes.add(len(asked["schema"]))
        by_text.setdefault(asked["input"], {}).update(answer)
    assert max(sizes) <= 5
    assert len(sizes) > 2
    assert len(by_text) == 400
    for text, answer in by_text.items():
        # The whole annotation is there under each naming, but for what is never asked.
        found = [mention for mentions in answer.values() for mention in mentions]
        assert sorted(found) == ["Ann", "Norway", "Oslo"], text
        assert "river" not in answer
        for label, mentions in answer.items():
            for mention in mentions:
                seen[mention].add(label)
        coarse = {"location", "place"} & set(answer)
        # A group stands for all of its labels or for none.
        if coarse:
            (name,) = coarse
            assert answer[name] == ["Oslo", "Norway"]
            assert not {"city", "town", "country"} & set(answer)
    assert seen == NAMES


def test_a_set_has_names_of_its_own(run: Any, corpus: Path) -> None:
    done = run(
        "convert",
        corpus / "set/train.json",
        "--source",
        "novels",
        "--label-aliases",
        corpus / "labels.toml",
    )
    labels = {label for _, answer in rows(done.out) for label in answer}
    assert "character" in labels
    assert not {"person", "human", "PER"} & labels
    assert labels & {"city", "town"}


def test_draws_hang_on_the_seed_alone(run: Any, corpus: Path) -> None:
    words = ["convert", corpus / "set/train.json", "--label-aliases", corpus / "labels.toml"]
    first = run(*words, "--sample", "0.3").out
    assert run(*words, "--sample", "0.3", "--workers", "2").out == first
    assert run(*words, "--sample", "0.3", "--seed", "43").out != first
    every = run(*words).out
    # A record is converted alike whether others are or not.
    assert set(first.splitlines()) <= set(every.splitlines())
    share = len({asked["input"] for asked, _ in rows(first)}) / 400
    assert 0.2 < share < 0.4


def test_two_labels_never_become_one_by_chance() -> None:
    aliases = LabelAliases(names={"a": ("b",), "b": ("b",), "c": ("a", "b")})
    for seed in range(50):
        naming = draw_naming(aliases, ["a", "b", "c", "d"], random.Random(seed))
        named = [name for name in naming.names.values() if name is not None]
        assert len(named) == len(set(named))
        assert naming.names["d"] == "d"


def test_a_coarse_type_asks_for_the_slots_of_all_its_types() -> None:
    items = (SchemaItem("attack", ("agent", "place")), SchemaItem("bombing", ("place", "weapon")))
    (item,) = Naming({"attack": "violence", "bombing": "violence"}, None).items(items)
    assert (item.type, item.slots) == ("violence", ("agent", "place", "weapon"))


def test_hard_negatives_are_renamed_too(run: Any, corpus: Path) -> None:
    hard = corpus / "hard.json"
    hard.write_text(json.dumps({"person": ["vehicle"], "river": ["vehicle"]}), encoding="utf-8")
    done = run(
        "convert",
        corpus / "set/train.json",
        "--label-aliases",
        corpus / "labels.toml",
        "--neg-ratio",
        "0",
        "--hard-negatives",
        hard,
    )
    texts = {asked["input"] for asked, answer in rows(done.out) if "vehicle" in answer}
    assert len(texts) == 400


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[name]\na = ['b']", "name is not known"),
        ("names = 3", "names is not a table"),
        ("[names]\na = 'b'", "names.a is not a list of names"),
        ("[names]\na = ['']", "names.a is not a list of names"),
        ("split_num = [0]", "split_num is not a list"),
        ("split_num = [-2]", "split_num is not a list"),
        ("[sets.x.group]\na = ['b']", "sets.x.group is not known"),
        ("[sets.set.names]\na = 'b'", "sets.set.names.a is not a list of names"),
        ("names = [", "labels.toml"),
    ],
)
def test_a_wrong_file_is_one_line(run: Any, corpus: Path, text: str, said: str) -> None:
    (corpus / "labels.toml").write_text(text, encoding="utf-8")
    done = run("convert", corpus / "set/train.json", "--label-aliases", corpus / "labels.toml")
    assert done.code == 1
    assert done.out == ""
    assert "labels.toml" in done.err
    assert said in done.err
    assert len(done.err.splitlines()) <= 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--split", "test", "--label-aliases", "labels.toml"),
            "--label-aliases would rename the gold",
        ),
        (("--to", "records", "--sample", "0.5"), "cannot be used --to records"),
        (("--to", "schema", "--label-aliases", "labels.toml"), "cannot be used --to schema"),
        (("--sample", "0"), "--sample 0 is not a share"),
        (("--sample", "1.5"), "--sample 1.5 is not a share"),
    ],
)
def test_a_wrong_call_is_refused(
    run: Any, corpus: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(corpus)
    done = run("convert", "set/train.json", *words)
    assert done.code == 2
    assert said in done.err
