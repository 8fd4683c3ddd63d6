"""Files of every form, broken in every way: used, or named in a line, and never touched."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from abuse.backends import install
from abuse.counting import count
from abuse.program import call, check_manners, execute, rows
from abuse.strategies import any_text, attack, json_values, mostly, names
from hypothesis import strategies as st

from iepile_cli.backends.gguf import GgufFile
from iepile_cli.errors import IEPileError
from iepile_cli.models.adapter_settings import read_adapter_settings

offsets = st.integers(-3, 40) | st.sampled_from([10**9, 2**63, -(2**70), 1.5, "0", None])
words = st.sampled_from(["Ann", "Oslo", "in", "北京", "\u2028", "a b", "", '"', "\x1b[2J", "é"])
labels = names | st.sampled_from(["B-", "I-", "O", "B-person", "I-person", "S-x", "U-", "L-x", "-"])


def examples(share: int, whole: int) -> Any:
    marked = pytest.param(whole, marks=pytest.mark.abuse, id="whole")
    return pytest.mark.parametrize("examples", [pytest.param(share, id="share"), marked])


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def jsonl(values: list[Any]) -> bytes:
    return "".join(json.dumps(value) + "\n" for value in values).encode()


def lists(element: st.SearchStrategy[Any], most: int = 5) -> st.SearchStrategy[list[Any]]:
    return st.lists(element, max_size=most)


def either(usual: Any, rare: st.SearchStrategy[Any] = json_values) -> st.SearchStrategy[Any]:
    """What belongs there, and now and then anything."""
    strategy = usual if isinstance(usual, st.SearchStrategy) else st.just(usual)
    return mostly(strategy, rare, one_in=6)


def record(**fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    """An object with most of its fields as they should be."""
    return st.fixed_dictionaries({}, optional={key: either(value) for key, value in fields.items()})


short = lists(words, 6).map(" ".join)
entity = record(entity=words, entity_type=labels, start=offsets, end=offsets)
relation = record(head=words, tail=words, relation=labels, head_type=labels, tail_type=labels)
event = record(
    event_trigger=words,
    event_type=labels,
    arguments=lists(record(argument=words, role=labels), 3),
)
span = record(start=offsets, end=offsets, label=labels, token_start=offsets, token_end=offsets)
region = record(
    type=st.sampled_from(["labels", "relation"]),
    value=record(start=offsets, end=offsets, text=words, labels=lists(labels, 2)),
    from_id=words,
    to_id=words,
    id=words,
)
item = record(
    type=labels, text=words, start=offsets, end=offsets, score=offsets, arguments=json_values
)

# The form of records and how they are made: a file's name and content.
FORMS: dict[str, tuple[str, st.SearchStrategy[bytes]]] = {
    "iepile": (
        "r.jsonl",
        lists(
            either(
                record(
                    text=short, entity=lists(entity), relation=lists(relation), event=lists(event)
                )
            )
        ).map(jsonl),
    ),
    "bio": (
        "r.bio",
        lists(
            st.tuples(words, st.sampled_from([" ", "\t", "  ", "\t\t"]), labels).map("".join)
            | st.just("")
            | any_text,
            12,
        ).map(lambda lines: encoded("\n".join(lines))),
    ),
    "tokens": (
        "r.jsonl",
        lists(
            record(tokens=lists(words), ner_tags=lists(labels | st.integers(-2, 9)), id=words)
        ).map(jsonl),
    ),
    "spacy": (
        "r.json",
        lists(
            st.tuples(
                short,
                record(entities=lists(st.tuples(offsets, offsets, labels)), spans=json_values),
            )
            | record(text=short, ents=lists(span), spans=record(sc=lists(span)))
        ).map(lambda value: json.dumps(value).encode()),
    ),
    "prodigy": (
        "r.jsonl",
        lists(
            record(
                text=short,
                spans=lists(span),
                relations=lists(json_values),
                answer=words,
                tokens=json_values,
            )
        ).map(jsonl),
    ),
    "doccano": (
        "r.jsonl",
        lists(
            record(
                text=short,
                label=lists(st.tuples(offsets, offsets, labels)),
                entities=lists(
                    record(id=offsets, label=labels, start_offset=offsets, end_offset=offsets)
                ),
                relations=lists(record(from_id=offsets, to_id=offsets, type=labels)),
            )
        ).map(jsonl),
    ),
    "label-studio": (
        "r.json",
        lists(
            record(
                data=record(text=short),
                annotations=lists(record(result=lists(region), was_cancelled=st.booleans()), 2),
            )
        ).map(lambda value: json.dumps(value).encode()),
    ),
    "results": (
        "r.jsonl",
        lists(
            record(
                source=words,
                task=labels,
                lang=words,
                answer=json_values,
                items=lists(item),
                line=offsets,
            )
        ).map(jsonl),
    ),
}


@pytest.mark.parametrize("form", FORMS)
@examples(3, 300)
def test_records_of_every_form(form: str, examples: int, tmp_path: Path) -> None:
    name, contents = FORMS[form]

    @attack(examples, content=contents, to=st.sampled_from(["rows", "rows", "bio", "doccano"]))
    def _(content: bytes, to: str) -> None:
        source, out = tmp_path / name, tmp_path / "out.jsonl"
        out.unlink(missing_ok=True)
        source.write_bytes(content)
        asked = ("--task", "NER", "--schema", "auto") if form == "iepile" and to == "rows" else ()
        done = call(
            "-q", "convert", source, "--from", form, "--to", to, *asked, "-o", out, "--workers", "1"
        )
        check_manners(done)
        assert source.read_bytes() == content
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
        if to == "rows" and out.exists():
            for row in rows(out.read_bytes(), safe=False):
                check_training_row(row)
        count(f"annotated files, {form}")


def check_training_row(row: dict[str, Any]) -> None:
    asked = json.loads(row["instruction"])
    answer = json.loads(row["output"])
    schema = [
        part if isinstance(part, str) else next(iter(part.values())) for part in asked["schema"]
    ]
    assert set(answer) <= {name for name in schema} or row["task"] == "SPO", row


brat_line = st.one_of(
    st.builds(
        lambda n, kind, spans, text: f"T{n}\t{kind} {spans}\t{text}",
        st.integers(0, 4),
        labels,
        lists(st.tuples(offsets, offsets), 3).map(lambda s: ";".join(f"{a} {b}" for a, b in s)),
        words,
    ),
    st.builds(
        lambda n, kind, one, other: f"R{n}\t{kind} Arg1:T{one} Arg2:T{other}",
        *[st.integers(0, 4), labels, st.integers(0, 4), st.integers(0, 4)],
    ),
    st.builds(
        lambda n, kind, one, role: f"E{n}\t{kind}:T{one} {role}:T{n}",
        *[st.integers(0, 4), labels, st.integers(0, 4), labels],
    ),
    any_text,
)


@examples(3, 300)
def test_brat_folders(examples: int, tmp_path: Path) -> None:
    @attack(examples, text=short, lines=lists(brat_line, 8))
    def _(text: str, lines: list[str]) -> None:
        folder, out = tmp_path / "brat", tmp_path / "out.jsonl"
        folder.mkdir(exist_ok=True)
        out.unlink(missing_ok=True)
        (folder / "a.txt").write_bytes(encoded(text))
        (folder / "a.ann").write_bytes(encoded("\n".join(lines)))
        done = call("-q", "convert", folder, "--from", "brat", "-o", out, "--workers", "1")
        check_manners(done)
        for row in rows(out.read_bytes(), safe=False) if out.exists() else []:
            check_training_row(row)
        assert (folder / "a.ann").read_bytes() == encoded("\n".join(lines))
        count("annotated files, brat")


table = st.one_of(
    lists(lists(any_text, 4), 6).map(lambda cells: as_csv([["text", "id"], *cells])),
    st.lists(st.sampled_from([*'",\n\r\t;', "text", "a", "\x00", "é"]), max_size=40).map("".join),
)


def as_csv(cells: list[list[str]]) -> str:
    written = io.StringIO(newline="")
    csv.writer(written).writerows(cells)
    return written.getvalue()


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.json", "t.txt"])
@examples(3, 300)
def test_texts_in_files(name: str, examples: int, tmp_path: Path) -> None:
    install()
    content = st.one_of(
        table.map(encoded),
        lists(record(text=any_text, id=json_values)).map(jsonl),
        json_values.map(lambda value: json.dumps(value).encode()),
        st.binary(max_size=60),
        any_text.map(lambda text: text.encode("utf-16", "surrogatepass")),
    )

    @attack(examples, content=content, lines=st.booleans())
    def _(content: bytes, lines: bool) -> None:
        path = tmp_path / name
        path.write_bytes(content)
        how = ("--lines",) if lines else ()
        done = call("-q", "extract", "-s", "person", path, *how, "--backend", "first-word")
        check_manners(done)
        assert path.read_bytes() == content
        for row in rows(done.out):
            # The text is not here to compare with: its own words must be.
            assert list(row["answer"]) == ["person"]
        count("files of texts")


row = record(
    id=words,
    task=st.sampled_from(["NER", "RE", "SPO", "EE", "EET", "EEA", "KG", "ner", "x"]),
    source=words,
    instruction=record(instruction=words, schema=lists(labels), input=short).map(json.dumps),
    label=st.one_of(lists(entity), lists(relation), lists(event)).map(json.dumps),
    output=json_values.map(json.dumps),
)


@examples(5, 600)
def test_predictions(examples: int, tmp_path: Path) -> None:
    @attack(examples, content=lists(either(row), 6).map(jsonl) | st.binary(max_size=80))
    def _(content: bytes) -> None:
        path = tmp_path / "p.jsonl"
        path.write_bytes(content)
        page, errors = tmp_path / "p.html", tmp_path / "errors.jsonl"
        done = call(
            "-q",
            "eval",
            path,
            "--html",
            page,
            "--errors",
            errors,
            "--json",
            "-",
            "--resamples",
            "5",
        )
        check_manners(done)
        assert path.read_bytes() == content
        if done.code == 0:
            assert isinstance(json.loads(done.out), dict)
            assert "<script>alert" not in page.read_text(encoding="utf-8")
        count("files of predictions")


@examples(5, 400)
def test_instructions(examples: int, tmp_path: Path) -> None:
    install()

    @attack(examples, content=lists(either(row), 6).map(jsonl) | st.binary(max_size=80))
    def _(content: bytes) -> None:
        path = tmp_path / "i.jsonl"
        path.write_bytes(content)
        words = ("-q", "extract", "--instructions", path, "--backend", "random")
        done = call(*words, "--answer-tokens", "20")
        check_manners(done)
        assert path.read_bytes() == content
        for made in rows(done.out):
            assert isinstance(json.loads(made["output"]), (dict, list))
        count("files of instructions")


toml_value = st.one_of(
    st.integers(-5, 10**6).map(str),
    st.booleans().map(lambda value: str(value).lower()),
    any_text.map(lambda text: json.dumps(text.encode("utf-8", "replace").decode())),
    st.sampled_from(["[1, 2]", "{a = 1}", "1979-05-27", "nan", "''", '"""\n"""', "[[1], [2]]"]),
)
KEYS = [
    "model",
    "format",
    "quiet",
    "adapter",
    "limit",
    "answer-tokens",
    "base-url",
    "schema",
    "lang",
]
toml = st.lists(
    st.builds(
        lambda key, value: f"{key} = {value}\n", st.sampled_from([*KEYS, "x", '"a b"']), toml_value
    )
    | st.sampled_from(["[extract]\n", "[train]\n", "[eval]\n", "[a.b]\n", "[[extract]]\n", "=\n"]),
    max_size=6,
).map("".join)


@pytest.mark.parametrize("variable", ["config", "models"])
@examples(5, 500)
def test_configurations(
    variable: str, examples: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install()
    monkeypatch.setenv("IEPILE_CONFIG", str(tmp_path / "config.toml"))
    (tmp_path / "config.toml").touch()
    (tmp_path / "a.txt").write_text("Ann met Bob.")

    from iepile_cli import registry as home

    @attack(examples, content=(toml | any_text).map(encoded) | st.binary(max_size=60))
    def _(content: bytes) -> None:
        (tmp_path / f"{variable}.toml").write_bytes(content)
        # Each call is to find the user's models anew.
        home.registry.cache_clear()
        install.cache_clear()
        install()
        words = ("extract", "-s", "person", tmp_path / "a.txt", "--backend", "first-word")
        check_manners(call(*words))
        check_manners(call("list", "models"))
        count(f"{variable}.toml")

    home.registry.cache_clear()
    install.cache_clear()


# ------------------------------------------------------------------------------------- weights


def damaged(data: bytes, rng: random.Random, within: int) -> bytes:
    """The data with some bytes of its beginning changed, taken out or put in."""
    made = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(max(1, min(within, len(made))))
        match rng.randrange(5):
            case 0:
                made[at : at + 1] = rng.randbytes(1)
            case 1:
                made[at : at + 8] = struct.pack("<Q", rng.choice([0, 1, 2**31, 2**63, 2**64 - 1]))
            case 2:
                del made[at : at + rng.randrange(1, 20)]
            case 3:
                made[at:at] = rng.randbytes(rng.randrange(1, 20))
            case 4:
                del made[at:]
    return bytes(made)


@pytest.fixture(scope="module")
def small_gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A GGUF file of a few keys and weights, with a LoRA's names."""
    import gguf
    import numpy as np

    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b", "<s>"])
    writer.add_context_length(128)
    for name in ("blk.0.attn_v.weight.lora_a", "blk.0.attn_v.weight.lora_b"):
        writer.add_tensor(name, np.ones((4, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@examples(100, 20_000)
def test_gguf_headers(examples: int, small_gguf: bytes, tmp_path: Path) -> None:
    """Read as far as they go, or refused; never a bug, nor memory without end."""
    path, rng = tmp_path / "x.gguf", random.Random(1)
    for _ in range(examples):
        path.write_bytes(damaged(small_gguf, rng, len(small_gguf)))
        with suppress(IEPileError), GgufFile(path) as file:
            for key in file.keys:
                file.value(key)
            file.context_length()
            for tensor in file.tensors:
                file.weights(tensor)
        with suppress(IEPileError):
            read_adapter_settings(path)
        count("GGUF headers")


@pytest.mark.abuse
@pytest.mark.parametrize("role", ["--model", "--adapter"])
def test_gguf_files_in_llama_cpp(
    role: str, small_gguf: bytes, embedded: Path, tmp_path: Path
) -> None:
    """As a model or an adapter, a broken file is a line, and no crash of the library."""
    rng = random.Random(2)
    path = tmp_path / "x.gguf"
    (tmp_path / "a.txt").write_text("Ann met Bob.")
    whole = embedded.read_bytes() if role == "--model" else small_gguf
    for _ in range(40):
        path.write_bytes(damaged(whole, rng, 20_000))
        words = ["extract", "-s", "a", role, path, "--answer-tokens", "2", tmp_path / "a.txt"]
        done = execute(words, os.environ, timeout=120)
        check_manners(done)
        count("GGUF files in llama.cpp")


@pytest.mark.abuse
def test_safetensors_headers(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    from tiny_llama import tiny_llama, training_rows

    data = tmp_path / "train.jsonl"
    data.write_text(training_rows(24))
    model = tiny_llama(tmp_path / "tiny", data)
    weights = model / "model.safetensors"
    whole, rng = weights.read_bytes(), random.Random(3)
    (length,) = struct.unpack("<Q", whole[:8])
    for _ in range(60):
        weights.write_bytes(damaged(whole, rng, length + 8))
        words = (
            "-q",
            "extract",
            "-s",
            "a",
            "--model",
            model,
            "--template",
            "alpaca",
            "--device",
            "cpu",
        )
        check_manners(call(*words, "--answer-tokens", "2", stdin=b"Ann met Bob."))
        count("safetensors headers")


# ---------------------------------------------------------------------------------------- hubs

EVIL = [
    "../evil",
    "../../evil.safetensors",
    "/etc/evil.json",
    "a/../../evil.json",
    "..\\evil.json",
    "C:\\evil.json",
    "model.safetensors/../../evil",
    "\x1b[2Jevil.json",
    "evil\x00.json",
    "evil\n.json",
    ".",
    "..",
    "",
    "a//b.json",
    "~/evil.json",
    "\u202egnosj.json",
    "x" * 300 + ".json",
    "\ud800.json",
    "CON",
    ".git/config",
    "iepile.json",
    "config.json",
    "model.safetensors",
]


@examples(5, 150)
def test_hub_listings(examples: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub")
    from hub.hub_server import HubServer
    from huggingface_hub import constants

    store = tmp_path / "inner" / "store"
    monkeypatch.setenv("IEPILE_MODELS", str(store))
    server = HubServer()
    try:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)

        @attack(examples, files=st.lists(st.sampled_from(EVIL) | any_text, min_size=1, max_size=6))
        def _(files: list[str]) -> None:
            server.add("owner/evil", {name: b"{}" for name in files})
            for words in (["download", "owner/evil", "--dry-run"], ["download", "owner/evil"]):
                done = call(*words)
                check_manners(done)
                assert b"\x1b" not in done.out
                outside = [
                    path
                    for path in tmp_path.rglob("*")
                    if path.is_file() and store not in path.parents
                ]
                assert outside == []
            call("download", "--remove", "owner/evil")
            count("hub listings")
    finally:
        server.close()
