"""The reference vectors of conversion, through whole files and record by record."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import SHARED, vector_cases

from iepile_cli.conversion import ConvertOptions, Plan, convert
from iepile_cli.conversion.convert_record import Converter
from iepile_cli.conversion.rows import id_of
from iepile_cli.task.schema import from_lists
from iepile_cli.task.table import task_named


@pytest.fixture(scope="module")
def canon(shared: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("canon", SHARED / "vectors" / "canon.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    spec.loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


def run_files(case: dict[str, Any], folder: Path, split: str) -> list[dict[str, Any]]:
    source = folder / case["source"] / "data.json"
    source.parent.mkdir()
    source.write_text("".join(json.dumps(one) + "\n" for one in case["records"]))
    schema = folder / "schema.json"
    schema.write_text("".join(json.dumps(part) + "\n" for part in case["schema"]))
    output = folder / "out" / "rows.json"
    arguments = case.get("args", {})
    options = ConvertOptions(
        path=source,
        output=output,
        schema=(str(schema),),
        task=case["task"],
        language=case["language"],
        split=split,
        split_num=arguments.get("split_num", 4),
        neg_ratio=arguments.get("neg_schema", 1),
        workers=1,
    )
    convert(options)
    return [json.loads(line) for line in output.read_bytes().splitlines()]


def run_general(case: dict[str, Any], split: str) -> list[dict[str, Any]]:
    """The same without the quick way."""
    task = task_named(case["task"])
    _, items = from_lists(*case["schema"], task)
    arguments = case["args"]
    plan = Plan(
        task.name,
        tuple(items),
        split,
        case["source"],
        case["language"],
        arguments.get("split_num", 4),
        arguments.get("neg_schema", 1),
    )
    converter = Converter(plan, fast=False)
    rows: list[dict[str, Any]] = []
    for number, record in enumerate(case["records"], 1):
        made = converter.convert_value(record, number, lambda kind, what: None)
        rows += map(json.loads, made.rows)
    return rows


def same_order(row: dict[str, Any]) -> bool:
    items = json.loads(row["instruction"])["schema"]
    names = ("predicate", "event_type", "entity_type")
    keys = [
        item if isinstance(item, str) else next(item[name] for name in names if name in item)
        for item in items
    ]
    return list(json.loads(row["output"])) == list(dict.fromkeys(keys))


@pytest.mark.parametrize("case", vector_cases("convert_train"), ids=lambda case: case["name"])
def test_train(case: dict[str, Any], tmp_path: Path, canon: ModuleType) -> None:
    for rows in (run_files(case, tmp_path, "train"), run_general(case, "train")):
        if case["compare"] == "exact":
            assert json.dumps(rows) == json.dumps(case["fixed"])
        assert [canon.canon_train(row) for row in rows] == [
            canon.canon_train(row) for row in case["fixed"]
        ]
        assert all(map(same_order, rows))


@pytest.mark.parametrize("case", vector_cases("convert_test"), ids=lambda case: case["name"])
def test_test(case: dict[str, Any], tmp_path: Path, canon: ModuleType) -> None:
    for rows in (run_files(case, tmp_path, "test"), run_general(case, "test")):
        assert canon.canon_test(rows) == case["upstream_canonical"]
        assert json.dumps(rows) == json.dumps(case["ordered"])


@pytest.mark.parametrize("case", vector_cases("ids"))
def test_ids(case: dict[str, Any]) -> None:
    assert id_of(case["text"]) == case["id"]


CRASHES = [case for case in vector_cases("crash") if case["op"] == "convert"]


@pytest.mark.parametrize("case", CRASHES, ids=lambda case: case["name"])
def test_inputs_on_which_upstream_dies(case: dict[str, Any], tmp_path: Path, run: Any) -> None:
    given = case["input"]
    source = tmp_path / "data.json"
    source.write_text(
        "".join(
            (one if isinstance(one, str) else json.dumps(one)) + "\n" for one in given["records"]
        )
    )
    schema = tmp_path / "schema.json"
    schema.write_text("".join(json.dumps(part) + "\n" for part in given["schema"]))
    command = ["convert", source, "--task", case["task"], "--schema", schema]
    command += ["--split", given["split"], "--split-num", given.get("split_num", 4)]
    command += ["--neg-ratio", given.get("neg_schema", 1)]
    if "cluster" in given:
        hard = tmp_path / "hard.json"
        hard.write_text(json.dumps(given["cluster"]))
        command += ["--hard-negatives", hard]
    result = run(*command)
    assert "Traceback" not in result.err
    expected = {
        "convert_ee_noann_train": 3,
        "convert_split_num_0": 2,
        "convert_cluster_eea": 2,
    }
    assert result.code == expected.get(case["name"], 0), result.err
    rows = [json.loads(line) for line in result.out.split("\n")[:-1]]
    if "noann_test" in case["name"]:
        assert [list(row) for row in rows] == [["id", "task", "source", "instruction"]]
    if case["name"] == "convert_ee_noann_train":
        assert f"{source}:1" in result.err
    if case["name"] == "convert_blank_line":
        assert len(rows) == 2
