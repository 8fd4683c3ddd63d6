"""Examples as token ids and labels: upstream's good cases, hand-checked ids, honest cutting."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import vector_cases
from hypothesis import given
from hypothesis import strategies as st
from vocabularies import llama_cpp_tokenizer, spelled

from iepile_cli.errors import DataError
from iepile_cli.registry import registry
from iepile_cli.task.instruction import dumps, instruction_json
from iepile_cli.task.shape import SchemaItem
from iepile_cli.task.table import TASKS
from iepile_cli.templates import encode
from iepile_cli.training.dataset import (
    EncodedDataset,
    dataset_key,
    digest,
    encode_dataset,
    read_examples,
)
from iepile_cli.training.encoding import IGNORED, Encoded, Encoder, Example, Limits
from iepile_cli.training.options import TrainOptions


class Characters:
    """One token for each character; control tokens by their names."""

    bos, eos, add_bos, chat_template = 1_200_000, 1_200_001, True, None
    _names = ("<reserved_102>", "<reserved_103>")

    def control(self, token: str) -> int | None:
        return 1_200_002 + self._names.index(token) if token in self._names else None

    def text(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    @property
    def control_ids(self) -> frozenset[int]:
        return frozenset({self.bos, self.eos, *self.controls().values()})

    def controls(self) -> Mapping[str, int]:
        return {name: 1_200_002 + at for at, name in enumerate(self._names)}

    def shown(self, token_id: int) -> Any:
        if token_id == IGNORED:
            return IGNORED
        if token_id == self.bos:
            return "<bos>|BOS"
        if token_id == self.eos:
            return "<eos>|EOS"
        named = {i: f"token|{name}" for name, i in self.controls().items()}
        return named.get(token_id) or chr(token_id)


def encoder(template: str, limits: Limits, tokenizer: Any = None, **more: Any) -> Encoder:
    tokenizer = tokenizer or Characters()
    return Encoder(tokenizer, registry().get("template", template).bind(tokenizer), limits, **more)


# Upstream cuts prompts at their end, closing marks included, lets end tokens go and keeps answers
# whose text was cut; for these cases its vectors hold that behaviour, which is not ours.
_UPSTREAM_BUGS = ("lose", "lost", "still_reserves", "max_target_", "predict", "cutoff_after_join")
_UPSTREAM_BUGS += ("truncate",)
GOOD = [
    case
    for case in vector_cases("preprocess")
    if not any(part in case["name"] for part in _UPSTREAM_BUGS)
]


def rows_of(case: dict[str, Any], folder: Path) -> Path:
    """A case's rows as lines of our own form."""
    names = {"prompt": "instruction", "query": "input", "response": "output"}
    path = folder / "rows.jsonl"
    lines = [json.dumps({names.get(k, k): v for k, v in row.items()}) for row in case["rows"]]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("case", GOOD, ids=[case["name"] for case in GOOD])
def test_ids_and_labels_are_those_of_upstream(case: dict[str, Any], tmp_path: Path) -> None:
    limits = Limits(case["cutoff_len"])
    encode_one = encoder(case["template"], limits, learns_prompt=bool(case["options"].get("top")))
    encoded = [only(encode_one(example)) for example in read_examples(rows_of(case, tmp_path))]
    shown = Characters().shown
    assert [[shown(i) for i in one.ids] for one in encoded] == case["result"]["input_ids"]
    assert [[shown(i) for i in one.labels] for one in encoded] == case["result"]["labels"]


def only(encoded: list[Encoded]) -> Encoded:
    (one,) = encoded
    return one


# ------------------------------------------------------------------------------------ long texts

SENTENCES = (
    "Ann went to Rome. Bob stayed in Oslo with Ann. Annual rain fell. Carl saw nobody at all. "
    "In the end Zoe went to Rome, too."
)


def example_about(task: str, items: Sequence[SchemaItem], answer: dict[str, Any]) -> Example:
    question = instruction_json(TASKS[task], items, SENTENCES, "en")
    return Example(question, dumps(answer), task=task)


def parts_of(example: Example, length: int, tokenizer: Any = None) -> list[tuple[str, Any]]:
    """The text of each part of a split example, and its answer."""
    encoded = encoder("vanilla", Limits(length), tokenizer)(example)
    assert all(len(one.ids) <= length for one in encoded)
    shown = []
    for one in encoded:
        prompt = one.labels.count(IGNORED)
        question = "".join(map(chr, one.ids[1:prompt]))
        answer = "".join(map(chr, one.ids[prompt:-1]))
        given = json.loads(question)
        assert {**json.loads(example.question), "input": given["input"]} == given
        shown.append((given["input"], json.loads(answer)))
    return shown


def test_a_long_text_is_split_and_each_part_has_the_answer_that_it_holds() -> None:
    items = (SchemaItem("person"), SchemaItem("place"))
    example = example_about(
        "NER", items, {"person": ["Ann", "Bob", "Carl", "Zoe"], "place": ["Rome", "Oslo"]}
    )
    frame = len(example.question) - len(SENTENCES)
    parts = parts_of(example, frame + 100)
    assert len(parts) > 2
    words = " ".join(text for text, _ in parts).split()
    assert words == SENTENCES.split()
    for text, answer in parts:
        named = set(re.findall(r"\w+", text))
        for label, names in (("person", "Ann Bob Carl Zoe"), ("place", "Rome Oslo")):
            # Whole words only: there is no Ann in Annual.
            assert answer[label] == [name for name in names.split() if name in named]
    assert any("Annual" in text and "Ann" not in answer["person"] for text, answer in parts)


def test_a_relation_stays_where_both_its_ends_are() -> None:
    answer = {
        "lives in": [
            {"subject": "Bob", "object": "Oslo"},
            {"subject": "Bob", "object": "Rome"},
            {"subject": "Zoe", "object": "Rome"},
        ]
    }
    example = example_about("RE", [SchemaItem("lives in")], answer)
    parts = parts_of(example, len(example.question) - 10)
    assert len(parts) > 1
    kept = [(one["subject"], one["object"]) for _, found in parts for one in found["lives in"]]
    assert set(kept) == {("Bob", "Oslo"), ("Zoe", "Rome")}


def test_an_argument_outside_a_passage_is_left_out_of_its_event() -> None:
    answer = {
        "travel": [{"trigger": "went", "arguments": {"person": ["Ann", "Zoe"], "place": "Rome"}}]
    }
    example = example_about("EE", [SchemaItem("travel", ("person", "place"))], answer)
    parts = parts_of(example, len(example.question) - 5)
    first, *middle, last = [found["travel"] for _, found in parts]
    assert first == [{"trigger": "went", "arguments": {"person": "Ann", "place": "Rome"}}]
    assert last == [{"trigger": "went", "arguments": {"person": "Zoe", "place": "Rome"}}]
    assert middle
    assert all(found == [] for found in middle)


@given(length=st.integers(60, 400), longest=st.integers(0, 300))
def test_no_answer_is_kept_whose_text_is_not(length: int, longest: int) -> None:
    items = (SchemaItem("person"),)
    example = example_about("NER", items, {"person": ["Ann", "Bob", "Carl", "Zoe"]})
    for one in encoder("vanilla", Limits(length, prompt=longest))(example):
        prompt = one.labels.count(IGNORED)
        assert len(one.ids) <= length
        assert not longest or prompt <= longest
        text = json.loads("".join(map(chr, one.ids[1:prompt])))["input"]
        answer = json.loads("".join(map(chr, one.ids[prompt:-1])))
        assert all(name in text for name in answer["person"])
        assert one.ids[-1] == Characters.eos


def test_what_cannot_be_split_is_left_out() -> None:
    # No instruction, an answer of another form, and a frame that does not fit.
    assert encoder("vanilla", Limits(20))(Example("a" * 50, "XYZ")) == []
    odd = Example(instruction_json(TASKS["NER"], [SchemaItem("x")], SENTENCES, "en"), "[1]")
    assert encoder("vanilla", Limits(100))(dataclasses.replace(odd, task="NER")) == []
    right = example_about("NER", [SchemaItem("x")], {"x": []})
    assert encoder("vanilla", Limits(40))(right) == []


def test_what_is_too_long_can_be_dropped_or_refused() -> None:
    long = Example("a" * 50, "XYZ")
    assert encoder("vanilla", Limits(20, too_long="drop"))(long) == []
    with pytest.raises(DataError, match="an example has 55 tokens, its answer 4"):
        encoder("vanilla", Limits(20, too_long="refuse"))(long)
    # An answer that is too long by itself is never shortened.
    assert encoder("vanilla", Limits(20))(Example("a", "X" * 30)) == []
    assert encoder("vanilla", Limits(100, answer=5))(Example("a", "X" * 30)) == []


# ----------------------------------------------------------------------------------- real models

# For the system text "S", the question "Ann 在北京" and the answer '["Ann"]'. Checked by hand: each
# id was read as its vocabulary's token and held against the template's parts; the openings of the
# Llama and Qwen prompts are also those that their publishers show.
HAND_CHECKED: dict[tuple[str, str], tuple[list[int], list[int]]] = {
    # <s> ▁[ INST ] ▁<< SY S >> \n S \n < </ SY S >> \n \n An n ▁ 在 北 京 ▁[ / INST ]
    ("llama-spm", "llama2"): (
        [
            *(
                1,
                518,
                25580,
                29962,
                3532,
                14816,
                29903,
                6778,
                13,
                29903,
                13,
                29966,
                829,
                14816,
                29903,
            ),
            *(6778, 13, 13, 2744, 29876, 29871, 30505, 30662, 30675, 518, 29914, 25580, 29962),
        ],
        [6796, 2744, 29876, 3108, 2],
    ),
    ("llama-bpe", "llama3"): (
        [
            *(
                128000,
                128006,
                9125,
                128007,
                271,
                50,
                128009,
                128006,
                882,
                128007,
                271,
                28192,
                74662,
            ),
            *(70090, 128009, 128006, 78191, 128007, 271),
        ],
        [1204, 28192, 1365, 128009],
    ),
    ("qwen2", "qwen"): (
        [
            *(
                151644,
                8948,
                198,
                50,
                151645,
                198,
                151644,
                872,
                198,
                27093,
                73562,
                68990,
                151645,
                198,
            ),
            *(151644, 77091, 198),
        ],
        [1183, 27093, 1341, 151645],
    ),
    # <s> ▁S <reserved_106> ▁Ann ▁在 北京 <reserved_107>
    ("baichuan", "baichuan2"): (
        [1, 694, 199, 3709, 6390, 3659, 200],
        [29567, 14843, 14507, 2],
    ),
    # S \n\n ### ĠInstruction :\n Ann ... \n\n ### ĠResponse :\n
    ("llama-bpe", "alpaca"): (
        [128000, 50, 271, 14711, 30151, 512, 28192, 74662, 70090, 271, 14711, 6075, 512],
        [1204, 28192, 1365, 128001],
    ),
}


@pytest.mark.parametrize(("name", "template"), HAND_CHECKED)
def test_ids_and_masks_are_those_checked_by_hand(name: str, template: str) -> None:
    encode_one = encoder(template, Limits(100), llama_cpp_tokenizer(name))
    one = only(encode_one(Example("Ann 在北京", '["Ann"]', system="S")))
    prompt, answer = HAND_CHECKED[name, template]
    assert one.ids == prompt + answer
    assert one.labels == [IGNORED] * len(prompt) + answer


@pytest.mark.parametrize(("name", "template"), HAND_CHECKED)
def test_the_prompt_is_the_one_of_extract_and_the_answer_follows(name: str, template: str) -> None:
    tokenizer = llama_cpp_tokenizer(name)
    form = registry().get("template", template)
    question, answer = '{"input": "Ann 在北京."}', '{"person": ["Ann"]}'
    one = only(encoder(template, Limits(10_000), tokenizer)(Example(question, answer)))
    prompt = encode(form.prompt(question), tokenizer)
    assert one.ids[: len(prompt)] == prompt
    assert one.labels[: len(prompt)] == [IGNORED] * len(prompt)
    said = one.ids[len(prompt) :]
    assert one.labels[len(prompt) :] == said
    assert spelled(said[:-1], tokenizer).strip() == answer
    assert said[-1] == encode((form.end,), tokenizer)[0]


@pytest.mark.parametrize("template", ["alpaca", "llama2"])
def test_many_examples_are_encoded_as_each_alone(template: str) -> None:
    texts = ("Ann lives in Graz.", "Bob in Graz,\ntoo ", "小明在北京 <s> </s>", "")
    examples = [
        Example(question, answer, system, history)
        for question in (*texts[:3], dumps({"input": texts[0]}))
        for answer in texts
        for system in (None, "Be brief.")
        for history in ((), (("Who is in Graz?", "Ann"),))
    ]
    for name in ("smollm2", "llama-spm"):
        encode_one = encoder(template, Limits(60), llama_cpp_tokenizer(name), system="S")
        alone = [encode_one(example) for example in examples]
        assert encode_one.many(examples) == alone
        assert [] in alone


# ---------------------------------------------------------------------------------------- files


def write(folder: Path, *lines: str) -> Path:
    path = folder / "lines.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


GOOD_LINE = '{"instruction": "q", "output": "a"}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not an object"),
        ('{"instruction": "q"}', "no 'output'"),
        ('{"output": "q"}', "no 'instruction'"),
        ('{"instruction": "q", "label": "[]"}', "a test line"),
        ('{"instruction": 1, "output": "q"}', "no 'instruction'"),
        ('{"instruction": "q", "output": "a", "history": [["x"]]}', "'history'"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path, GOOD_LINE, line)
    with pytest.raises(DataError, match=message) as caught:
        list(read_examples(path))
    assert f"{path}:2" in str(caught.value)


def test_empty_missing_and_binary_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        list(read_examples(tmp_path / "none"))
    binary = tmp_path / "b.jsonl"
    binary.write_bytes(bytes(range(256)))
    with pytest.raises(DataError, match="not a text file"):
        list(read_examples(binary))
    with pytest.raises(DataError, match="no example in it"):
        stored(write(tmp_path), tmp_path)


def test_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    import gzip

    whole = gzip.compress((GOOD_LINE + "\n").encode() * 500)
    files = {
        "cut.jsonl.gz": (whole[: len(whole) // 2], "its compression is damaged"),
        "wide.jsonl": (GOOD_LINE.encode("utf-16"), "is in UTF-16"),
        "zero.jsonl": (b"\0\1\2", "is not a text file"),
    }
    for name, (content, message) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message) as caught:
            list(read_examples(tmp_path / name))
        assert name in str(caught.value)
    with pytest.raises(DataError, match="cannot be read"):
        list(read_examples(tmp_path))


def test_compressed_files_are_read(tmp_path: Path) -> None:
    import gzip

    import zstandard

    text = f"\ufeff{GOOD_LINE}\n\n{GOOD_LINE}\n".encode()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text))
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(text))
    # Known by what they hold, too.
    (tmp_path / "packed").write_bytes(gzip.compress(text))
    for name in ("a.jsonl.gz", "a.jsonl.zst", "packed"):
        assert list(read_examples(tmp_path / name)) == [Example("q", "a")] * 2


def make_encoder(length: int) -> Encoder:
    """Also called in other processes, which find this module by its name."""
    return encoder("vanilla", Limits(length))


def stored(path: Path, cache: Path, length: int = 12, **more: Any) -> EncodedDataset:
    made = make_encoder(length)
    return encode_dataset(cache, dataset_key([path], made, "t"), [path], made, **more)


def write_rows(folder: Path, rows: Iterable[tuple[str, str]]) -> Path:
    return write(folder, *(json.dumps({"instruction": q, "output": a}) for q, a in rows))


def test_a_dataset_gives_back_what_was_encoded_and_reports_it(tmp_path: Path) -> None:
    rows = [("ab", "X"), ("abcdefghijklmnop", "XY"), ("a", "X" * 20), ("abc", "XYZ")]
    dataset = stored(write_rows(tmp_path, rows), tmp_path / "cache")
    kept = [one for row in rows for one in make_encoder(12)(Example(*row))]
    assert len(dataset) == len(kept) == 2
    for at, one in enumerate(kept):
        assert list(dataset[at]["input_ids"]) == one.ids
        assert list(dataset[at]["labels"]) == one.labels
    assert list(dataset.numbers) == [0, 3]
    report = dataset.report
    assert (report.examples, report.split, report.left_out, report.longest) == (2, 0, 2, 8)
    assert report.tokens == sum(len(one.ids) for one in kept)
    assert "left out: 2 lines" in " ".join(report.lines())


def test_ids_take_16_bits_where_they_fit(tmp_path: Path) -> None:
    import numpy as np

    def kind(text: str) -> Any:
        # The tests' characters are their own ids; only those of one example are stored.
        tokenizer = Characters()
        tokenizer.bos = tokenizer.eos = 3
        form = registry().get("template", "vanilla").bind(tokenizer)
        made = Encoder(tokenizer, form, Limits(50))
        path = write_rows(tmp_path, [(text, "a")])
        dataset = encode_dataset(tmp_path, dataset_key([path], made, "t"), [path], made)
        assert list(dataset[0]["input_ids"]) == only(made(Example(text, "a"))).ids
        return np.load(dataset.folder / "ids.npy").dtype

    assert kind("q") == np.uint16
    assert kind("😀") == np.uint32


def test_labels_of_several_turns_come_back(tmp_path: Path) -> None:
    turns = {"instruction": "c", "output": "Z", "history": [["a", "X"], ["b", "Y"]]}
    path = write(tmp_path, json.dumps(turns), GOOD_LINE)
    made = encoder("baichuan", Limits(50))
    dataset = encode_dataset(tmp_path / "c", dataset_key([path], made, "t"), [path], made)
    wanted = [only(made(example)) for example in read_examples(path)]
    assert len([label for label in wanted[0].labels if label != IGNORED]) > 3
    for at, one in enumerate(wanted):
        assert list(dataset[at]["labels"]) == one.labels


def test_examples_about_one_text_are_held_out_together(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(20)]
    rows = [
        (json.dumps({"schema": [label], "input": text}), "[]") for text in texts for label in "ab"
    ]
    dataset = stored(write_rows(tmp_path, rows), tmp_path / "c", length=80)
    kept, out = dataset.split(6, seed=1)
    assert (len(kept), len(out)) == (34, 6)
    about = [{int(number) // 2 for number in part.numbers} for part in (kept, out)]
    assert not about[0] & about[1]
    again = dataset.split(6, seed=1)[1]
    assert list(again.rows) == list(out.rows)
    assert list(dataset.split(6, seed=2)[1].rows) != list(out.rows)


def test_a_dataset_is_made_once_for_the_same_content(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD_LINE)
    counted: list[int] = []
    for _ in range(2):
        stored(path, tmp_path / "c", on_example=lambda: counted.append(1))
    assert counted == [1]
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(path.read_bytes())
    assert digest([copy]) == digest([path])
    stored(path, tmp_path / "c", length=11, on_example=lambda: counted.append(1))
    assert len(counted) == 2


def test_an_encoding_that_fails_leaves_nothing_in_the_cache(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD_LINE, "{")
    with pytest.raises(DataError):
        stored(path, tmp_path / "c")
    assert [
        item.name for item in (tmp_path / "c").iterdir() if not item.name.endswith("lock")
    ] == []


def test_other_processes_encode_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from iepile_cli.training import dataset as module

    monkeypatch.setattr(module, "_CHUNK", 5)
    monkeypatch.setattr(module, "_SERIAL", 2)
    path = write_rows(tmp_path, [("q" * (n % 7 + 1), str(n)) for n in range(60)])
    alone = stored(path, tmp_path / "1")
    many = stored(path, tmp_path / "2", workers=2, factory=functools.partial(make_encoder, 12))
    assert [list(many[n]["input_ids"]) for n in range(60)] == [
        list(alone[n]["input_ids"]) for n in range(60)
    ]


def test_limits_come_from_the_options() -> None:
    options = TrainOptions(max_length=99, max_source=50, max_target=20, too_long="drop")
    assert Limits.of(options) == Limits(99, 50, 20, "drop")
