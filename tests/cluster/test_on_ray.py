"""Runs on a Ray cluster give the bytes of a run on one machine, whatever dies meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from gazetteer_plugin import write_plugin

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).parents[2]
SCHEMA = ["--schema", "person,place", "--backend", "gazetteer"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of workers and of the program: with a backend that pauses at each text."""
    site = tmp_path_factory.mktemp("site")
    write_plugin(site)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(ROOT)]))
        patch.setenv("GAZETTEER_PAUSE", "0.005")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield dict(os.environ)


@pytest.fixture
def cluster(environment: dict[str, str]) -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield made
    made.shutdown()


def texts(folder: Path, count: int) -> Path:
    """Three files; every 500th text cannot be answered, and one line is no record."""
    inputs = folder / "in"
    inputs.mkdir()
    lines = [
        json.dumps(
            {"id": f"d{n}", "text": f"Person{n} met Ann in Oslo{' CRASH' if n % 500 == 7 else ''}."}
        )
        for n in range(count)
    ]
    lines.insert(count // 2, "{broken")
    third = len(lines) // 3
    for number, start in enumerate((0, third, 2 * third)):
        stop = len(lines) if number == 2 else start + third
        (inputs / f"{number}.jsonl").write_text("\n".join(lines[start:stop]) + "\n")
    return inputs


def started(environment: dict[str, str], *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "iepile_cli", "extract", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def joined(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.glob("part-*")))


def wait_for_shards(folder: Path, count: int, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 900
    while len(list(folder.glob("part-*"))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)


def actors() -> list[psutil.Process]:
    found = []
    for one in psutil.process_iter(["cmdline"]):
        words = one.info["cmdline"] or [""]
        if words[0].startswith("ray::") and "MapWorker" in words[0]:
            found.append(one)
    return found


def test_two_nodes_give_the_bytes_of_one_process(
    cluster: Any, environment: dict[str, str], tmp_path: Path
) -> None:
    """An actor is killed and a node removed on the way; nothing is lost or repeated."""
    inputs = texts(tmp_path, 2000)
    single, out = tmp_path / "single.jsonl", tmp_path / "out"
    done = started(environment, str(inputs), *SCHEMA, "-o", str(single))
    said = done.communicate(timeout=900)
    assert done.returncode == 3, said
    node = cluster.add_node(num_cpus=1)
    words = [str(inputs), *SCHEMA, "-o", str(out), "--replicas", "2", "--shards", "8"]
    process = started(environment, *words, "--ray", cluster.address)
    wait_for_shards(out, 1, process)
    (victim, *_) = actors()
    victim.send_signal(signal.SIGKILL)
    wait_for_shards(out, 3, process)
    cluster.remove_node(node, allow_graceful=False)
    shown, errors = process.communicate(timeout=900)
    assert process.returncode == 3, errors
    assert shown == ""
    assert joined(out) == single.read_bytes()
    failed = [
        json.loads(line)
        for path in sorted(out.glob("failed-*"))
        for line in path.read_text().splitlines()
    ]
    assert len(failed) == 5
    assert {one["reason"].partition(":")[0] for one in failed} == {"no answer", "is not JSON"}
    assert all(one["source"] and one["line"] for one in failed)
    assert "5 inputs failed" in errors
    # Nothing is done again.
    before = {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
    again = started(environment, *words, "--ray", cluster.address, "--resume")
    again.communicate(timeout=900)
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("part-*")}


def test_a_run_that_was_interrupted_goes_on(
    cluster: Any, environment: dict[str, str], tmp_path: Path
) -> None:
    inputs, out = texts(tmp_path, 1500), tmp_path / "out"
    words = [str(inputs), *SCHEMA, "-o", str(out), "--shards", "6", "--ray", cluster.address]
    process = started(environment, *words)
    wait_for_shards(out, 2, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 130, errors
    kept = {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
    assert 2 <= len(kept) < 6
    refused = started(environment, *words)
    assert "--resume goes on" in refused.communicate(timeout=900)[1]
    assert refused.returncode == 2
    process = started(environment, *words, "--resume")
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 3, errors
    assert all(path.stat().st_mtime_ns == time_ for path, time_ in kept.items())
    single = tmp_path / "single.jsonl"
    started(environment, str(inputs), *SCHEMA, "-o", str(single)).communicate(timeout=900)
    assert joined(out) == single.read_bytes()


def test_parquet_holds_the_same(environment: dict[str, str], cluster: Any, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    inputs, out, single = texts(tmp_path, 300), tmp_path / "out", tmp_path / "single.jsonl"
    words = [str(inputs), *SCHEMA]
    started(environment, *words, "-o", str(single)).communicate(timeout=900)
    process = started(
        environment, *words, "-o", str(out), "--parquet", "--ray", cluster.address, "--shards", "2"
    )
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 3, errors
    rows = [
        row for path in sorted(out.glob("part-*")) for row in parquet.read_table(path).to_pylist()
    ]
    expected = [json.loads(line) for line in single.read_text().splitlines()]
    assert [row["id"] for row in rows] == [one["id"] for one in expected]
    assert [json.loads(row["items"]) for row in rows] == [one["items"] for one in expected]


def test_conversion_gives_the_bytes_of_one_process(
    cluster: Any, environment: dict[str, str], tmp_path: Path
) -> None:
    path, out, single = tmp_path / "train.jsonl", tmp_path / "out", tmp_path / "single.jsonl"
    path.write_text(
        "".join(
            json.dumps(
                {"text": f"Ann{n} left.", "entity": [{"entity": f"Ann{n}", "entity_type": "a"}]}
            )
            + "\n"
            for n in range(500)
        )
    )
    base = [sys.executable, "-m", "iepile_cli", "convert", str(path), "--schema", "a,b,c"]
    base += ["--task", "NER", "--neg-ratio", "0.4"]
    subprocess.run([*base, "-o", str(single)], env=environment, check=True)
    ray = ["--ray", cluster.address, "--shards", "5", "-o", str(out)]
    subprocess.run([*base, *ray], env=environment, check=True)
    assert joined(out) == single.read_bytes()
