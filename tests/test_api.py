"""The Python API: what it offers, what it costs to import, and what it gives and refuses."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import iepile_cli as iepile

ROOT = Path(__file__).parents[1]
NAMES = {
    *("load", "convert", "train", "evaluate", "read_schema", "read_documents", "__version__"),
    *("Extractor", "Extraction", "Item", "Mention", "Schema", "Registry"),
    *("IEPileError", "UsageError", "UnknownName", "DataError", "ModelError"),
    *("DownloadError", "PartialFailure", "summarise", "write_page"),
}


def test_the_public_names_are_these_and_exist() -> None:
    assert set(iepile.__all__) == NAMES == set(dir(iepile))
    for name in NAMES:
        assert getattr(iepile, name) is not None
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = iepile.nothing_like_it


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((ROOT / "iepile_cli" / "__init__.py").read_text(encoding="utf-8"))
    seen = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("iepile_cli.")
        for alias in node.names
    }
    assert seen | {"__version__"} == NAMES
    assert (ROOT / "iepile_cli" / "py.typed").is_file()


def test_importing_costs_little_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, time; before = time.process_time(); import iepile_cli as iepile;"
        "iepile.UsageError, iepile.load, iepile.Item; spent = time.process_time() - before;"
        "heavy = {'torch', 'transformers', 'numpy', 'llama_cpp', 'rich', 'typer', 'pydantic',"
        " 'jinja2', 'yaml', 'orjson'} & set(sys.modules); print(spent); sys.exit(bool(heavy))"
    )
    times = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )
        times.append(float(done.stdout))
    assert min(times) < 0.1 * float(os.environ.get("IEPILE_TEST_SLOWNESS", "1.5")), times


def test_schemas_are_expressions_lists_files_and_objects(tmp_path: Path) -> None:
    schema = iepile.read_schema("person, location")
    assert (schema.task.name, schema.names) == ("NER", ["person", "location"])
    assert iepile.read_schema(schema) is schema
    assert iepile.read_schema(["person", "location"]) == schema
    assert iepile.read_schema({"task": "NER", "schema": ["person", "location"]}) == schema
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(["person", "location"]))
    assert iepile.read_schema(str(path)) == schema
    assert iepile.read_schema("founder", "RE").task.name == "RE"
    with pytest.raises(iepile.UsageError):
        iepile.read_schema([])
    with pytest.raises(iepile.UnknownName):
        iepile.read_schema("a", "NERR")


TEXT = "Ada Keller flew from Hamburg to Lisbon. 任正非在深圳。 😀 Ann lives in Oslo."


@pytest.fixture(scope="module")
def model() -> Iterator[iepile.Extractor]:
    with iepile.load(context=2048, parallel=2) as opened:
        yield opened


@pytest.mark.model
def test_an_extraction_is_that_of_the_command_line(model: iepile.Extractor, tmp_path: Path) -> None:
    result = model.extract(TEXT, "person,location", answer_tokens=48)
    assert (model.backend, result.task, result.language, result.text) == (
        "llama-cpp",
        "NER",
        "en",
        TEXT,
    )
    assert result.items
    for item in result.items:
        assert TEXT[item.start : item.end] == item.text
        assert item.score is not None
        assert 0 <= item.score <= 1
    done = subprocess.run(
        [
            *(sys.executable, "-m", "iepile_cli", "extract", "--schema", "person,location"),
            *("--answer-tokens", "48", "--context", "2048", "--parallel", "2"),
        ],
        input=TEXT.encode(),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
    )
    written = json.loads(done.stdout)
    record = result.record or {}
    assert written["answer"] == record["answer"] == result.answer
    assert written["items"] == record["items"]


@pytest.mark.model
def test_parts_have_roles(model: iepile.Extractor) -> None:
    schema = iepile.read_schema("person -lives in-> city")
    result = model.extract("Ann lives in Oslo.", schema, min_score=0)
    for item in result.items:
        assert item.text == item["subject"].text
        assert [mention.role for mention in item.mentions] == ["subject", "object"]
        assert (item.subject_type, item.object_type) == ("person", "city")
        with pytest.raises(KeyError):
            _ = item["nothing"]


@pytest.mark.model
def test_many_texts_are_read_as_they_are_needed(model: iepile.Extractor) -> None:
    taken: list[int] = []

    def texts() -> Iterator[str]:
        for number in range(200):
            taken.append(number)
            yield f"Ann {number} lives in Oslo."

    results = model.extract_all(texts(), "person")
    assert not taken
    first = [next(results), next(results)]
    assert [result.text for result in first] == ["Ann 0 lives in Oslo.", "Ann 1 lives in Oslo."]
    assert len(taken) < 50


@pytest.mark.model
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"min_score": 2}, iepile.UsageError),
        ({"language": "de"}, iepile.UsageError),
        ({"split_num": 0}, iepile.UsageError),
        ({"task": "NERR"}, iepile.UnknownName),
        ({"no_such": 1}, TypeError),
    ],
)
def test_wrong_options_are_refused_at_once(
    model: iepile.Extractor, options: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        model.extract_all(["Ann."], "person", **options)


def test_a_model_that_is_not_here_is_named_with_the_way_to_it() -> None:
    with pytest.raises(iepile.IEPileError) as caught:
        iepile.load("oneke")
    assert "iepile download oneke" in caught.value.hint + caught.value.message
    with pytest.raises(TypeError):
        iepile.load(no_such_option=1)


ROWS = [
    {
        "task": "NER",
        "source": "s",
        "instruction": json.dumps({"instruction": "x", "schema": ["person"], "input": "Ann ran."}),
        "label": json.dumps([{"entity": "Ann", "entity_type": "person"}]),
        "output": json.dumps({"person": ["Ann"]}),
    }
]


def test_conversion_and_scores(tmp_path: Path) -> None:
    source = tmp_path / "train.json"
    source.write_text(
        json.dumps({"text": "Ann ran.", "entity": [{"entity": "Ann", "entity_type": "person"}]})
    )
    (report,) = iepile.convert(source, tmp_path / "rows.jsonl", task="NER", schema=["person"])
    assert (report.records, report.rows, report.skipped) == (1, 1, 0)
    row = json.loads((tmp_path / "rows.jsonl").read_text())
    assert json.loads(row["output"]) == {"person": ["Ann"]}
    with pytest.raises(iepile.UsageError):
        iepile.convert(source, tmp_path / "x.jsonl", task="NER", schema=["person"], to="nonsense")
    predictions = tmp_path / "pred.jsonl"
    predictions.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    scores = iepile.evaluate(predictions, resamples=0)
    assert scores["tasks"]["NER"]["units"]["entity"]["micro"]["F1"] == 100
    with pytest.raises(iepile.UsageError):
        iepile.evaluate(predictions, mode="sometimes")


def test_training_takes_the_options_of_the_command(tmp_path: Path) -> None:
    with pytest.raises(iepile.UsageError, match="--scheduler"):
        iepile.train(tmp_path / "rows.jsonl", tmp_path / "out", scheduler="never")
    with pytest.raises(iepile.UsageError):
        iepile.train(tmp_path / "rows.jsonl", tmp_path / "out", no_such_option=1)
