"""The steps of a distillation, each from files to files, and what of them is done."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_cli.backends import Options
from iepile_cli.distillation.answers import Cost, Question, answer_texts
from iepile_cli.distillation.options import DistillOptions, Step
from iepile_cli.distillation.selection import select
from iepile_cli.errors import DataError, OnError, UsageError, raise_error
from iepile_cli.extraction.blocks import in_blocks
from iepile_cli.extraction.inputs import Document, read_documents
from iepile_cli.extraction.requests import ExtractOptions
from iepile_cli.files import read_text
from iepile_cli.writing import write_atomic

if TYPE_CHECKING:
    from iepile_cli.backends.opening import Opened
    from iepile_cli.training.reporting import Reporter

STATE = "distill.json"
# The fields of ``DistillOptions`` that may differ between runs that go on with each other.
_FREE = ("output", "until", "export", "quantise")


@dataclass(frozen=True)
class Texts:
    """Where the texts are: ``read`` gives them, the same each time."""

    paths: tuple[str, ...]
    read: Callable[[OnError], Iterable[Document]]


@dataclass
class Distillation:
    """One run: its folder, its settings, and what its steps came to.

    ``schema`` are the expressions or files as they were given, ``question`` what they mean.
    ``note`` and ``on_error`` are told what a person should know, ``progress`` the number of texts
    that are answered; ``reporter`` of training.
    """

    options: DistillOptions
    question: Question
    schema: tuple[str, ...]
    texts: Texts
    backend: str | None = None
    template: str | None = None
    opening: Options = field(default_factory=Options)
    note: Callable[[str], None] = lambda message: None
    on_error: OnError = raise_error
    progress: Callable[[str, int], None] = lambda step, done: None
    reporter: Reporter | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def folder(self) -> Path:
        """The folder of the student and of all files on the way."""
        return Path(self.options.output)

    def file(self, name: str) -> Path:
        """A file in the folder."""
        return self.folder / name

    def run(self) -> dict[str, Any]:
        """Take the steps that are not done; gives the facts of all, as the report has them.

        Raises ``UsageError`` for a folder of a run with other settings, ``DataError`` where
        nothing is left to learn from, and what the steps raise.
        """
        self._open_folder()
        steps: Mapping[Step, Callable[[], dict[str, Any]]] = {
            "teach": self._teach,
            "select": self._select,
            "convert": self._convert,
            "train": self._train,
            "evaluate": self._evaluate,
            "export": self._export,
        }
        for name in self.options.steps:
            if name in self.facts["steps"]:
                continue
            self.note(f"{name} ...")
            started = time.monotonic()
            facts = steps[name]()
            self.facts["steps"][name] = {**facts, "took": time.monotonic() - started}
            self._save()
        return self.facts

    # ------------------------------------------------------------------------------- the folder

    def _settings(self) -> dict[str, Any]:
        chosen = asdict(self.options)
        # Only what is not by default: the rest may become different with a later version.
        asked = {
            name: value
            for of, default in ((self.question.how, ExtractOptions()), (self.opening, Options()))
            for name, value in asdict(of).items()
            if value != getattr(default, name) and name not in ("on_note", "verbose")
        }
        settings = {name: value for name, value in chosen.items() if name not in _FREE}
        settings |= {"schema": self.schema, "texts": self.texts.paths, "asked": asked}
        settings |= {"backend": self.backend, "template": self.template}
        found: dict[str, Any] = json.loads(json.dumps(settings))
        return found

    def _open_folder(self) -> None:
        settings, path = self._settings(), self.file(STATE)
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"{self.folder} is a file, not a folder")
        if not path.is_file():
            self.facts = {"settings": settings, "steps": {}}
            self._save()
            return
        try:
            self.facts = json.loads(read_text(path))
            before = self.facts["settings"]
        except (ValueError, KeyError, TypeError):
            raise DataError("is no state of a distillation", path=path) from None
        for name, value in settings.items():
            if before.get(name) != value:
                raise UsageError(
                    f"{self.folder} was made with another {name.replace('_', '-')}: "
                    f"{before.get(name)}, not {value}",
                    hint="go on with the same, or name another -o",
                )

    def _save(self) -> None:
        text = json.dumps(self.facts, ensure_ascii=False, indent=1)
        write_atomic(self.file(STATE), text + "\n")

    # -------------------------------------------------------------------------------- the steps

    def _answers(
        self,
        documents: Iterable[Document],
        name: str,
        opening: Callable[[], Opened],
        question: Question | None = None,
    ) -> Cost:
        """The answers to documents in the file ``name``; costs of interrupted runs are added."""
        partial = self.facts.setdefault("partial", {})
        cost = Cost(**partial.get(name, {}))
        try:
            answer_texts(
                in_blocks(documents),
                self.file(name),
                question or self.question,
                opening,
                cost,
                self.on_error,
                lambda count: self.progress(name, count),
            )
        finally:
            partial[name] = asdict(cost)
            self._save()
        return cost

    def _teacher(self) -> Opened:
        from iepile_cli.backends.opening import open_model

        options = self.options
        return open_model(
            options.teacher,
            adapters=options.teacher_adapter,
            backend=self.backend,
            template=self.template,
            options=self.opening,
        )

    def _student(self) -> Opened:
        from iepile_cli.backends.opening import open_model

        trained = str(self.file("model"))
        threads = Options(threads=self.opening.threads)
        return open_model(self.options.student or None, adapters=[trained], options=threads)

    def _teach(self) -> dict[str, Any]:
        cost = self._answers(self.texts.read(self.on_error), "teacher.jsonl", self._teacher)
        return cost.as_json()

    def _select(self) -> dict[str, Any]:
        options = self.options
        counts = select(
            self.texts.read(lambda error: None),
            self.file("teacher.jsonl"),
            self.file("certain.jsonl"),
            self.file("held_out.jsonl"),
            certainty=options.certainty,
            share=0.0 if options.gold is not None else options.held_out,
            seed=options.seed,
        )
        if not counts.certain or not counts.items:
            raise DataError(
                f"none of {counts.texts} texts has a certain answer with an item to learn from",
                hint="a lower --certainty, other texts, or a better teacher",
            )
        if options.gold is None and not counts.held_out:
            raise DataError(
                f"none of {counts.texts} texts was held out", hint="a higher --held-out"
            )
        return counts.as_json()

    def _convert(self) -> dict[str, Any]:
        from iepile_cli.conversion import ConvertOptions, convert

        language = self.question.how.language
        (report,) = convert(
            ConvertOptions(
                path=self.file("certain.jsonl"),
                output=self.file("train.jsonl"),
                form="results",
                task=self.question.task.name,
                schema=self.schema,
                split="train",
                split_num=self.question.how.split_num,
                neg_ratio=self.options.neg_ratio,
                source="distilled",
                language=language or "auto",
                seed=self.options.seed,
            )
        )
        return {"records": report.records, "rows": report.rows, "skipped": report.skipped}

    def _train(self) -> dict[str, Any]:
        from iepile_cli.registry import registry
        from iepile_cli.training.finetune import train
        from iepile_cli.training.recipes import options_from, read_table

        options, output = self.options, self.file("model")
        recipe = registry().get("recipe", options.recipe).table if options.recipe else {}
        config = read_table(Path(options.train_config)) if options.train_config else {}
        given: dict[str, Any] = {
            "data": [str(self.file("train.jsonl"))],
            "output": str(output),
            "model": options.student,
            "adapter": options.student_adapter,
            "epochs": options.epochs,
            "max_steps": options.max_steps,
            "threads": self.opening.threads,
            "seed": options.seed,
        }
        given = {name: value for name, value in given.items() if value}
        chosen = options_from(recipe, config, given)
        unfinished = any(output.glob("checkpoints/checkpoint-*"))
        chosen = replace(chosen, resume=unfinished, overwrite=not unfinished)
        started = time.monotonic()
        result = train(chosen, given=given, reporter=self.reporter)
        return {
            "steps": result.steps,
            "loss": result.loss,
            "tokens_per_second": result.tokens_per_second,
            "held_out": result.best,
            "held_out_before": result.start,
            "seconds": time.monotonic() - started,
        }

    def _evaluate(self) -> dict[str, Any]:
        from iepile_cli.distillation.comparison import gold_texts, scores

        gold, facts = self.options.gold, {}
        if gold is None:
            gold, texts = str(self.file("held_out.jsonl")), self.file("held_out.jsonl")
        else:
            texts = self.file("gold_texts.jsonl")
            gold_texts(gold, self.question.task, texts)
            cost = self._answers(_read(texts), "teacher_gold.jsonl", self._teacher)
            answers = self.file("teacher_gold.jsonl")
            facts["teacher"] = {**cost.as_json(), **scores(answers, gold, self.question.task)}
        # What suits the teacher (passages, scores) need not suit the student.
        how = self.question.how
        own = ExtractOptions(language=how.language, split_num=how.split_num)
        question = replace(self.question, how=own)
        cost = self._answers(_read(texts), "student.jsonl", self._student, question)
        student = scores(self.file("student.jsonl"), gold, self.question.task)
        facts["student"] = {**cost.as_json(), **student}
        return facts

    def _export(self) -> dict[str, Any]:
        from iepile_cli.training.export import export
        from iepile_cli.training.options import ExportOptions

        to = self.options.export
        assert to != "none"
        suffix = ".gguf" if to in ("gguf", "gguf-adapter") else f"-{to}"
        made = export(
            ExportOptions(
                to=to,
                output=str(self.file(f"student{suffix}")),
                model=self.options.student,
                adapter=(str(self.file("model")),),
                quantise=self.options.quantise if to in ("gguf", "ollama") else "f16",
                overwrite=True,
            ),
            note=self.note,
        )
        return {"path": str(made), "bytes": _size(made)}


def _read(path: Path) -> Iterable[Document]:
    return read_documents([str(path)])


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return sum(one.stat().st_size for one in files)
