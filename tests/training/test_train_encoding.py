"""Examples as token ids and labels: upstream's good cases, hand-checked ids, honest cutting."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import vector_cases
from hypothesis import given
from hypothesis import strategies as st
from vocabularies import llama_cpp_tokenizer, spelled

from iepile_cli.errors import DataError
from iepile_cli.registry import registry
from iepile_cli.task.instruction import dumps
from iepile_cli.templates import encode
from iepile_cli.training.encoding import IGNORED, Encoded, Encoder, Limits
from iepile_cli.training.examples import Example, digest, read_examples
from iepile_cli.training.options import TrainOptions
from iepile_cli.training.store import Opener, make_store, store_key


class Characters:
    """One token for each character; control tokens by their names."""

    bos, eos, add_bos, chat_template = 1_200_000, 1_200_001, True, None
    _names = ("<reserved_102>", "<reserved_103>")

    def control(self, token: str) -> int | None:
        return 1_200_002 + self._names.index(token) if token in self._names else None

    def text(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def is_control(self, token_id: int) -> bool:
        return token_id >= self.bos

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


# Upstream cuts prompts at their end, closing marks included, and lets end tokens go; for these
# cases its vectors hold that behaviour, which is not ours.
_UPSTREAM_BUGS = ("lose", "lost", "still_reserves", "max_target_", "predict", "cutoff_after_join")
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
    cut = "truncate" in case["name"]
    if cut:
        # Upstream keeps its longest answer's room free, so its prompt is shorter by that.
        limits = Limits(case["cutoff_len"], prompt=case["cutoff_len"] - case["max_target_length"])
    encode_one = encoder(case["template"], limits, learns_prompt=bool(case["options"].get("top")))
    encoded = [encode_one(example) for example in read_examples(rows_of(case, tmp_path))]
    shown = Characters().shown
    assert [[shown(i) for i in one.ids] for one in encoded] == case["result"]["input_ids"]
    assert [[shown(i) for i in one.labels] for one in encoded] == case["result"]["labels"]
    assert [one.cut for one in encoded] == [cut] * len(encoded)


@pytest.mark.parametrize("case", vector_cases("max_len"))
def test_no_more_of_a_prompt_is_cut_than_upstream_cuts(case: dict[str, Any]) -> None:
    source, target, length = case["source_len"], case["target_len"], case["cutoff_len"]
    if target > length or source == 0:
        return
    kept = min(source, Limits(length).room(target))
    upstream, answer = case["result"]
    assert kept + target <= length
    if answer >= target:
        assert kept >= min(source, upstream)
    if source + target <= length:
        assert kept == source


# -------------------------------------------------------------------------------------- cutting


def test_a_long_prompt_loses_text_and_keeps_its_marks_and_the_answer() -> None:
    one = encoder("baichuan", Limits(12))(Example("abcdefghijkl", "XYZ"))
    shown = [Characters().shown(i) for i in one.ids]
    assert shown == [
        *("<bos>|BOS", "token|<reserved_102>", "a", "b", "c", "d", "e"),
        *("token|<reserved_103>", "X", "Y", "Z", "<eos>|EOS"),
    ]
    assert one.cut
    assert one.labels == [IGNORED] * 8 + one.ids[8:]


def test_an_instruction_that_is_cut_stays_json() -> None:
    question = dumps({"instruction": "say", "schema": ["x"], "input": 'ab"cd\n名' * 9})
    whole = encoder("vanilla", Limits(1000))(Example(question, "XYZ"))
    for length in range(60, len(whole.ids)):
        one = encoder("vanilla", Limits(length))(Example(question, "XYZ"))
        assert one.fits
        assert one.cut
        shown = "".join(map(chr, one.ids[1:-4]))
        asked, given = json.loads(shown), json.loads(question)
        assert given["input"].startswith(asked["input"])
        assert {**given, "input": asked["input"]} == asked
        # No more is cut than must be: one character more has two tokens at most.
        assert length - len(one.ids) <= 1
    # An answer is not learnt from an instruction without a text.
    frame = len(dumps({"instruction": "say", "schema": ["x"], "input": ""}))
    assert not encoder("vanilla", Limits(1 + frame + 4))(Example(question, "XYZ")).fits
    assert encoder("vanilla", Limits(1 + frame + 5))(Example(question, "XYZ")).fits


@given(
    question=st.text(max_size=60),
    answer=st.text(min_size=1, max_size=30),
    length=st.integers(8, 60),
    longest=st.integers(0, 40),
)
def test_whatever_is_cut_the_answer_is_whole_and_the_length_kept(
    question: str, answer: str, length: int, longest: int
) -> None:
    whole = encoder("baichuan", Limits(10_000))(Example(question, answer))
    one = encoder("baichuan", Limits(length, prompt=longest))(Example(question, answer))
    if not one.fits:
        return
    learnt = [label for label in one.labels if label != IGNORED]
    assert learnt == [label for label in whole.labels if label != IGNORED]
    assert len(one.ids) <= length
    assert one.cut == (one.ids != whole.ids)
    prompt = len(one.ids) - len(learnt)
    assert not longest or prompt <= longest
    assert one.ids[prompt - 1] == Characters().control("<reserved_103>")


def test_what_is_too_long_can_be_dropped_or_refused() -> None:
    long = Example("a" * 50, "XYZ")
    assert not encoder("vanilla", Limits(20, too_long="drop"))(long).fits
    with pytest.raises(DataError, match="an example has 55 tokens, its answer 4"):
        encoder("vanilla", Limits(20, too_long="refuse"))(long)
    # An answer that is too long by itself is never shortened.
    assert not encoder("vanilla", Limits(20))(Example("a", "X" * 30)).fits
    assert not encoder("vanilla", Limits(100, answer=5))(Example("a", "X" * 30)).fits


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
    one = encoder(template, Limits(100), llama_cpp_tokenizer(name))(
        Example("Ann 在北京", '["Ann"]', system="S")
    )
    prompt, answer = HAND_CHECKED[name, template]
    assert one.ids == prompt + answer
    assert one.labels == [IGNORED] * len(prompt) + answer


@pytest.mark.parametrize(("name", "template"), HAND_CHECKED)
def test_the_prompt_is_the_one_of_extract_and_the_answer_follows(name: str, template: str) -> None:
    tokenizer = llama_cpp_tokenizer(name)
    form = registry().get("template", template)
    question, answer = '{"input": "Ann 在北京."}', '{"person": ["Ann"]}'
    one = encoder(template, Limits(10_000), tokenizer)(Example(question, answer))
    prompt = encode(form.prompt(question), tokenizer)
    assert one.ids[: len(prompt)] == prompt
    assert one.labels[: len(prompt)] == [IGNORED] * len(prompt)
    said = one.ids[len(prompt) :]
    assert one.labels[len(prompt) :] == said
    assert spelled(said[:-1], tokenizer).strip() == answer
    assert said[-1] == encode((form.end,), tokenizer)[0]


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
        "cut.jsonl.gz": (whole[: len(whole) // 2], "broken compressed data"),
        "plain.jsonl.gz": (GOOD_LINE.encode(), "broken compressed data"),
        "plain.jsonl.zst": (GOOD_LINE.encode(), "broken compressed data"),
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


def stored(path: Path, cache: Path, length: int = 12, **more: Any) -> Any:
    made = make_encoder(length)
    return make_store(cache, store_key([path], made, "t"), [path], made, **more)


def test_a_store_gives_back_what_was_encoded_and_reports_it(tmp_path: Path) -> None:
    rows = [("ab", "X"), ("abcdefghijklmnop", "XY"), ("a", "X" * 20), ("abc", "XYZ")]
    path = write(tmp_path, *(json.dumps({"instruction": q, "output": a}) for q, a in rows))
    store = stored(path, tmp_path / "cache")
    wanted = [make_encoder(12)(Example(*row)) for row in rows]
    kept: list[Encoded] = [one for one in wanted if one.fits]
    assert len(store) == len(kept) == 3
    for at, one in enumerate(kept):
        assert list(store[at]["input_ids"]) == one.ids
        assert list(store[at]["labels"]) == one.labels
    assert list(store.numbers) == [0, 1, 3]
    report = store.report
    assert (report.examples, report.cut, report.left_out, report.longest) == (3, 1, 1, 12)
    assert report.tokens == sum(len(one.ids) for one in kept)
    assert report.padding == pytest.approx(1 - report.tokens / 36)
    said = " ".join(report.lines())
    assert "1 examples are too long" in said
    assert "1 examples are left out" in said


def test_a_store_is_made_once_for_the_same_content(tmp_path: Path) -> None:
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
    from iepile_cli.training import store as module

    monkeypatch.setattr(module, "_WORTH_WORKERS", 10)
    rows = [json.dumps({"instruction": "q" * (n % 7 + 1), "output": str(n)}) for n in range(60)]
    path = write(tmp_path, *rows)
    alone = stored(path, tmp_path / "1")
    opener = Opener(elsewhere, (12,))
    many = stored(path, tmp_path / "2", workers=2, opener=opener)
    assert [list(many[n]["input_ids"]) for n in range(60)] == [
        list(alone[n]["input_ids"]) for n in range(60)
    ]


def elsewhere(length: int) -> Encoder:
    return make_encoder(length)


def test_limits_come_from_the_options() -> None:
    options = TrainOptions(max_length=99, max_source=50, max_target=20, too_long="drop")
    assert Limits.of(options) == Limits(99, 50, 20, "drop")
