"""From a teacher to a student: each step's files, going on, refusals; for real with ``-m slow``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mineral_texts import SCHEMA, Catalogue
from odd_server import Odd

from iepile_cli.backends import Options
from iepile_cli.backends.opening import open_model
from iepile_cli.cli.app import run
from iepile_cli.distillation import steps as distilling
from iepile_cli.distillation.answers import Cost, Question, answer_texts
from iepile_cli.distillation.selection import is_certain, is_held_out, select
from iepile_cli.extraction.inputs import Document, raise_error
from iepile_cli.extraction.requests import ExtractOptions
from iepile_cli.task.schema import read_schema

EXPRESSION = ",".join(SCHEMA)


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue()


@pytest.fixture
def teacher(catalogue: Catalogue) -> Iterator[Odd]:
    """A server whose answers are right, as OpenAI's protocol has them."""
    server = Odd(lambda count, text: catalogue.answer(text))
    yield server
    server.stop()


def written(catalogue: Catalogue, folder: Path, count: int) -> Path:
    path = folder / "texts.txt"
    path.write_text("".join(catalogue.text() + "\n" for _ in range(count)), encoding="utf-8")
    return path


def item(score: float | None) -> dict[str, Any]:
    return {"type": "a", "text": "x", "start": 0, "end": 1, "score": score}


@pytest.mark.parametrize(
    ("result", "certain"),
    [
        ({"items": []}, True),
        ({"items": [item(None)]}, True),
        ({"items": [item(0.8), item(0.7)]}, True),
        ({"items": [item(0.8), item(0.69)]}, False),
        ({"items": [item(0.9)], "truncated": True}, False),
        ({"items": [item(0.9)], "ungrounded": 1}, False),
    ],
)
def test_what_is_certain(result: dict[str, Any], certain: bool) -> None:
    assert is_certain(result, 0.7) is certain


def test_held_out_by_the_text_alone() -> None:
    texts = [f"text {number}" for number in range(2000)]
    kept = [text for text in texts if is_held_out(text, 0.25, 1)]
    assert 400 < len(kept) < 600
    assert all(is_held_out(text, 0.25, 1) for text in kept)
    assert kept != [text for text in texts if is_held_out(text, 0.25, 2)]


def test_results_meet_their_texts_in_any_order(tmp_path: Path) -> None:
    documents = [Document("a.txt", f"text {n}", line=n) for n in range(1, 6)]
    results = tmp_path / "teacher.jsonl"
    lines = [
        {"source": "a.txt", "line": n, "task": "NER", "items": [item(0.2 if n == 4 else 0.9)]}
        for n in (1, 4, 5, 2)
    ]
    results.write_text("".join(json.dumps(one) + "\n" for one in lines))
    certain, kept = tmp_path / "certain.jsonl", tmp_path / "kept.jsonl"
    counts = select(documents, results, certain, kept, certainty=0.5, share=0, seed=1)
    assert counts.as_json() == {
        **{"texts": 5, "certain": 3, "doubtful": 1, "held_out": 0, "unanswered": 1, "items": 3}
    }
    found = [json.loads(line) for line in certain.read_text().splitlines()]
    assert [(one["line"], one["text"]) for one in found] == [(n, f"text {n}") for n in (1, 2, 5)]


def test_an_interrupted_run_keeps_what_its_answers_cost(
    catalogue: Catalogue, teacher: Odd, tmp_path: Path
) -> None:
    task, schema = read_schema([EXPRESSION])
    documents = [Document("a.txt", catalogue.text(), line=n) for n in range(1, 31)]
    question = Question(task, tuple(schema), ExtractOptions())

    def interrupted(done: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    def answered(progress: Callable[[int], None]) -> None:
        answer_texts(
            documents,
            tmp_path / "teacher.jsonl",
            question,
            lambda: open_model(None, options=Options(base_url=teacher.url)),
            cost,
            raise_error,
            progress,
        )

    cost = Cost()
    with pytest.raises(KeyboardInterrupt):
        answered(interrupted)
    assert (cost.texts, cost.failed) == (10, 0)
    tokens, seconds = cost.tokens, cost.seconds
    assert tokens > 0
    assert seconds > 0
    seen: list[int] = []
    answered(seen.append)
    assert seen == list(range(11, 31))
    assert (cost.texts, cost.failed) == (30, 0)
    assert cost.tokens > tokens
    assert cost.seconds > seconds


def words(texts: Path, teacher: Odd, out: Path, *more: str) -> list[str]:
    asked = ["--schema", EXPRESSION, "--lines", "--base-url", teacher.url, "--held-out", "0.2"]
    return ["distill", str(texts), *asked, "-o", str(out), *more]


def test_each_step_is_taken_once(
    tiny: Path,
    catalogue: Catalogue,
    teacher: Odd,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A run that stops on the way goes on at the step that is missing, and says what came out."""
    texts, out = written(catalogue, tmp_path, 30), tmp_path / "student"
    config = tmp_path / "train.toml"
    config.write_text(
        'template = "alpaca"\ndtype = "fp32"\ndevice = "cpu"\nval_size = "0"\nbatch_size = "4"\n'
        "lora_r = 4\nmax_length = 400\n"
    )
    student = ["--student", str(tiny), "--train-config", str(config), "--max-steps", "2"]
    student += ["--export", "merged"]
    base = words(texts, teacher, out, *student)
    assert run([*base, "--until", "convert"]) == 0
    answered = len(teacher.asked)
    assert answered >= 30
    rows = (out / "train.jsonl").read_text().splitlines()
    assert len(rows) == len((out / "certain.jsonl").read_text().splitlines())

    def broken(self: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(distilling.Distillation, "_export", broken)
        assert run(base) == 130
    trained = (out / "model" / "adapter_model.safetensors").stat().st_mtime_ns
    told = capsys.readouterr().err
    assert "training   LoRA r 4" in told
    assert "step 2/2" in told
    assert run(base) == 0
    assert len(teacher.asked) == answered
    assert (out / "model" / "adapter_model.safetensors").stat().st_mtime_ns == trained
    shown = capsys.readouterr().out
    assert "| student | mentions |" in shown or "| student |" in shown
    assert shown == (out / "report.md").read_text()
    facts = json.loads((out / "report.json").read_text())
    assert list(facts["steps"]) == ["teach", "select", "convert", "train", "evaluate", "export"]
    assert facts["steps"]["teach"]["texts"] == 30
    assert facts["steps"]["evaluate"]["student"]["documents"] >= 1
    assert facts["steps"]["evaluate"]["student"]["memory"] >= 0
    assert (out / "student-merged" / "model.safetensors").is_file()
    assert run([*base, "--certainty", "0.9"]) == 2
    assert "made with another certainty: 0.5, not 0.9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--held-out", "0"], "nothing to compare"),
        (["--held-out", "1"], "not a share"),
        (["--shard", "1/2"], "No such option: --shard"),
        (["-"], "read twice"),
    ],
)
def test_what_cannot_be_is_refused(
    more: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "a.txt"
    texts.write_text("Ann.")
    out = ["-o", str(tmp_path / "out")]
    assert run(["distill", str(texts), "--schema", "person", *out, *more]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.model
def test_the_embedded_model_learns_a_schema_that_it_does_not_know(
    catalogue: Catalogue, teacher: Odd, tmp_path: Path
) -> None:
    """As a user does it, with a teacher that knows: in 40 minutes on two cores."""
    started = time.process_time()
    texts, out = written(catalogue, tmp_path, 500), tmp_path / "student"
    more = ["--epochs", "2", "--export", "gguf", "--held-out", "0.2"]
    assert run(words(texts, teacher, out, *more)) == 0
    facts = json.loads((out / "report.json").read_text())
    (score,) = facts["steps"]["evaluate"]["student"]["units"].values()
    assert score["F1"] > 85
    # By the processor, not the clock: what else runs on the machine is no fault of ours.
    assert time.process_time() - started < 2 * 40 * 60
