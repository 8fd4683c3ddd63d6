"""What a model is asked about a text: passages, schema batches, prompts, grammars and budgets.

Goes in: a document, or a record with its own instruction. Comes out: an instruction for each pair
of passage and schema batch, and the request that puts it to an opened model.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, cast

from iepile_cli.backends import Request, Runner
from iepile_cli.errors import ModelError, UsageError
from iepile_cli.extraction.inputs import Document
from iepile_cli.extraction.instruction_records import InstructionRecord
from iepile_cli.extraction.readings import SchemaBatches, schema_readings
from iepile_cli.fields import check_fields, option
from iepile_cli.models.adapter_settings import TaskSettings
from iepile_cli.task.grammar import empty_answers, lark_grammar
from iepile_cli.task.instruction import Instruction, batch_bounds, dumps
from iepile_cli.task.language import detect_language
from iepile_cli.task.passages import Passage, overlapping, passages
from iepile_cli.task.shape import SchemaItem
from iepile_cli.task.table import Task
from iepile_cli.templates import Template, Tokenizer, encode

if TYPE_CHECKING:
    from iepile_cli.backends.opening import Opened

PASSAGE_TOKENS = 384
# How often a text is read at most with other passages, and with other orders of the schema.
MOST_READINGS = 16
# The group of these options in the help of the command line.
_ANSWERS = "Decoding"
# The shortest passage worth putting to a model, in tokens.
_LEAST_PASSAGE = 16
# An answer may quote its passage this many times over before it is cut short.
_PER_PASSAGE_TOKEN = 2


@dataclass(frozen=True)
class ExtractOptions:
    """How texts are extracted from; raises ``UsageError`` for values that cannot be.

    ``passage_tokens`` 0 is ``PASSAGE_TOKENS``, and for instruction records as much as the context
    holds. ``min_score``, ``best_type`` and ``split_num`` None are as ``by_task`` has them, which
    ``suiting`` takes from the adapter.
    """

    constrain: bool = option(
        True,
        group=_ANSWERS,
        help="Allow only valid, grounded answers; without it, answers are repaired.",
    )
    min_score: float | None = option(
        None,
        group=_ANSWERS,
        least=0,
        most=1,
        help="Leave out what scores less. Default: as was found best for the adapter and the "
        "task, else 0.",
    )
    all_occurrences: bool | None = option(
        None,
        group=_ANSWERS,
        help="Give every place where a mention stands, of the parts of relations and events too; "
        "--no-all-occurrences: one place of each. Default: every place of plain mentions, one of "
        "parts.",
    )
    best_type: bool | None = option(
        None,
        group=_ANSWERS,
        help="Of several types of one span keep the best; --no-best-type: all. Default: all whose "
        "score is near the best, how near as was found best for the adapter, else all.",
    )
    language: Literal["en", "zh"] | None = option(
        None,
        group=_ANSWERS,
        flags=("--lang",),
        help="Language of the instruction. Default: as the text is, en for all but Chinese.",
    )
    split_num: int | None = option(
        None,
        group=_ANSWERS,
        help="How many types are put to the model at once; -1: all. Default: as was found best for "
        "the adapter, else the task's own.",
    )
    passage_tokens: int = option(
        0,
        group=_ANSWERS,
        metavar="N",
        help="Longer texts are cut between sentences into passages of so many tokens; 0: as suits "
        "the model. Only a sentence may be longer. Instruction records are cut only where this is "
        "given, or they do not fit.",
    )
    overlap: int = option(
        0,
        group=_ANSWERS,
        metavar="N",
        least=0,
        help="Each passage begins with the last N sentences of the one before.",
    )
    passes: int = option(
        1,
        group=_ANSWERS,
        metavar="N",
        least=1,
        most=MOST_READINGS,
        help="Read each text N times, cut into passages at other places and with the schema in "
        "another order; what any of them finds is given.",
    )
    votes: int | None = option(
        None,
        group=_ANSWERS,
        metavar="N",
        least=1,
        most=MOST_READINGS,
        help="Put the schema to each text N times, in other orders; what at least half of them "
        "find is given, with the mean of their scores. Default: as was found best for the adapter, "
        "else once.",
    )
    answer_tokens: int = option(
        0, group=_ANSWERS, least=0, help="The longest answer; 0: as the passage and schema need."
    )
    system: str | None = option(
        None, group=_ANSWERS, help="A system text instead of the template's own."
    )

    by_task: Mapping[str, TaskSettings] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.split_num is not None:
            list(batch_bounds(1, self.split_num))
        if self.passage_tokens and self.passage_tokens < _LEAST_PASSAGE:
            raise UsageError(
                f"--passage-tokens {self.passage_tokens} is too low",
                hint=f"at least {_LEAST_PASSAGE}, or 0",
            )

    def least_score(self, task: Task) -> float:
        """The score (0..1) below which items of a task are left out."""
        return self._of(task).min_score if self.min_score is None else self.min_score

    def near_score(self, task: Task) -> float:
        """The share (0..1) of the best score at a place that others there must have."""
        return self._of(task).near_score if self.best_type is None else float(self.best_type)

    def types_at_once(self, task: Task) -> tuple[int, ...]:
        """How many types of a schema are put to the model at once, in each reading; -1: all."""
        if self.split_num is not None:
            return (self.split_num,)
        return self._of(task).split_num or (task.batch_size,)

    def _of(self, task: Task) -> TaskSettings:
        return self.by_task.get(task.name, TaskSettings())

    def suiting(self, opened: Opened, *, records: bool = False) -> ExtractOptions:
        """The options with what suits an opened model where nothing was asked for.

        Passages are left as they are for ``records``, which are put to the letter.
        """
        model = opened.model
        if model is None:
            return self
        passage = self.passage_tokens or (0 if records else model.passage_tokens)
        by_task = dict(model.by_task)
        if opened.remote:
            # Servers give no scores, of which the mean could be taken.
            by_task = {
                task: replace(known, split_num=known.split_num[:1])
                for task, known in by_task.items()
            }
        return replace(self, passage_tokens=passage, by_task=by_task)


@dataclass(frozen=True, slots=True)
class PassageInstruction:
    """An instruction about one passage; ``wording`` is its JSON where it is put to the letter.

    ``vote`` is the number of the reading, from 0.
    """

    instruction: Instruction
    passage: Passage
    wording: str
    vote: int = 0


class RequestBuilder:
    """Makes requests for one opened model: fits passages and answers into its context."""

    def __init__(
        self, runner: Runner, template: Template, options: ExtractOptions | None = None
    ) -> None:
        self.runner = runner
        self.template = template.bind(runner.tokenizer)
        self.options = options or ExtractOptions()

    def request(self, instruction: Instruction, wording: str | None = None) -> Request:
        """The request that puts ``instruction``, in the words of ``wording`` where it is given."""
        options, runner = self.options, self.runner
        grammar = None
        if options.constrain:
            task, items, text = instruction.task, instruction.items, instruction.text
            grammar = lark_grammar(task, items, text, lead=runner.lead, spells=runner.spells)
        return Request(
            prompt=self.template.prompt(wording or instruction.json, options.system),
            grammar=grammar,
            max_tokens=self.answer_budget(instruction.items, self.measure(instruction.text)),
            empties=empty_answers(instruction.task, instruction.items),
            instruction=instruction,
        )

    def room(self, items: Sequence[SchemaItem], wording: str) -> int:
        """The longest passage, in tokens, that fits with an instruction and its answer.

        ``wording`` is the instruction without a text. Raises ``ModelError`` when hardly any fits.
        """
        fixed = self.options.answer_tokens or self.answer_budget(items, 0)
        growth = 0 if self.options.answer_tokens else _PER_PASSAGE_TOKEN
        # Tokens at the joints of prompt and passage can split differently.
        room = (self.runner.context - self._prompt_tokens(wording) - fixed - 8) // (1 + growth)
        if room < _LEAST_PASSAGE:
            count = len(items)
            types = f"{count} types and their answer" if count != 1 else "one type and its answer"
            raise ModelError(
                f"the schema leaves no room for a text: {types} leave {max(0, room)} of "
                f"{self.runner.context} tokens",
                hint="ask for fewer types at once (--split-num), shorten descriptions, or give a "
                "larger --context",
            )
        return room

    def fits(self, instruction: Instruction, wording: str) -> bool:
        """Whether an instruction, as it is worded, and its answer fit the model's context."""
        answer = self.answer_budget(instruction.items, self.measure(instruction.text))
        return self._prompt_tokens(wording) + answer <= self.runner.context

    def _prompt_tokens(self, wording: str) -> int:
        prompt = self.template.prompt(wording, self.options.system)
        return len(encode(prompt, self.runner.tokenizer))

    def answer_budget(self, items: Sequence[SchemaItem], passage_tokens: int) -> int:
        """Tokens that an answer may have: its keys some times over and the passage twice."""
        if self.options.answer_tokens:
            return self.options.answer_tokens
        keys = "".join(item.type + "".join(item.slots) * 2 for item in items)
        signs = 6 * sum(1 + len(item.slots) for item in items)
        frame = len(self.runner.tokenizer.text(keys)) + signs
        return 64 + 2 * frame + _PER_PASSAGE_TOKEN * passage_tokens

    def measure(self, text: str) -> int:
        """The tokens of a text as it stands in the instruction."""
        return len(self.runner.tokenizer.text(dumps(text)))


class SchemaInstructions:
    """The instructions that put one schema to documents."""

    def __init__(self, task: Task, schema: Sequence[SchemaItem], builder: RequestBuilder) -> None:
        self.task, self.schema, self._builder = task, tuple(schema), builder
        self._votes, self._readings = schema_readings(task, schema, builder.options)
        self._budgets: dict[str, tuple[int, int]] = {}
        self._fitting: dict[str, list[SchemaBatches]] = {}

    def language(self, document: Document) -> str:
        """The language of a document's instructions: as the options say, else as its text is."""
        return self._builder.options.language or detect_language(document.text)

    def passage_budget(self, language: str) -> tuple[int, int]:
        """The longest passage and the longest sentence, in tokens, that is put as one.

        Both fit with each batch and its answer; raises ``ModelError`` where nothing does. Further
        readings, in larger batches, are left out where they do not fit.
        """
        if language not in self._budgets:
            rooms = [self._room(self._readings[0], language)]
            fitting = self._fitting[language] = self._readings[:1]
            for reading in self._readings[1:]:
                with suppress(ModelError):
                    rooms.append(self._room(reading, language))
                    fitting.append(reading)
            room = min(rooms)
            wanted = self._builder.options.passage_tokens or PASSAGE_TOKENS
            sentence = max(wanted, PASSAGE_TOKENS)
            self._budgets[language] = min(wanted, room), min(sentence, room)
        return self._budgets[language]

    def _room(self, reading: SchemaBatches, language: str) -> int:
        return min(
            self._builder.room(batch, Instruction(self.task, batch, "", language).json)
            for batch in reading
        )

    def of(self, document: Document, language: str) -> Iterator[PassageInstruction]:
        """Every batch put to every passage, batches outside for their common prompts.

        Raises ``ModelError`` for a text that cannot be cut.
        """
        budget, sentence = self.passage_budget(language)
        options, measure = self._builder.options, self._builder.measure
        readings = self._fitting[language]
        votes = min(self._votes, len(readings))
        put: set[tuple[int, tuple[SchemaItem, ...], Passage]] = set()
        for number in range(options.passes):
            found: Iterable[Passage] = passages(
                document.text,
                budget,
                measure,
                sentence_budget=sentence,
                first=number / options.passes,
            )
            if options.overlap:
                found = overlapping(document.text, found, options.overlap, sentence, measure)
            cut = list(found)
            for vote in range(votes):
                reading = readings[(number * votes + vote) % len(readings)]
                for batch, passage in itertools.product(reading, cut):
                    # What two readings have in common is put once.
                    if (vote, batch, passage) not in put:
                        put.add((vote, batch, passage))
                        asked = Instruction(self.task, batch, passage.text, language)
                        yield PassageInstruction(asked, passage, "", vote)


def may_lack_room(
    task: Task, schema: Sequence[SchemaItem], options: ExtractOptions, context: int
) -> bool:
    """Whether a schema is so long that it is worth measuring before a model is loaded.

    Its keys are in the prompt once and in the answer's budget twice.
    """
    _, (first, *_) = schema_readings(task, schema, options)
    return any(3 * len(Instruction(task, batch, "").json) > context for batch in first)


@dataclass(frozen=True)
class _Unloaded:
    """What is known of a model without its weights."""

    tokenizer: Tokenizer
    context: int


def check_room(
    task: Task,
    schema: Sequence[SchemaItem],
    options: ExtractOptions,
    tokenizer: Tokenizer,
    template: Template,
    context: int,
) -> None:
    """Raise ``ModelError`` when a schema leaves no room for a text in a context of so many tokens.

    For a model that is not loaded yet.
    """
    builder = RequestBuilder(cast(Runner, _Unloaded(tokenizer, context)), template, options)
    SchemaInstructions(task, schema, builder).passage_budget(options.language or "en")


def record_instructions(
    record: InstructionRecord, builder: RequestBuilder
) -> Iterator[PassageInstruction]:
    """The instruction of a record to the letter; one for each passage where that does not fit.

    Raises ``ModelError`` for one whose text cannot be cut or has no room.
    """
    asked, limit = record.instruction, builder.options.passage_tokens
    short = not limit or builder.measure(asked.text) <= limit
    if not asked.text.strip() or (short and builder.fits(asked, record.wording)):
        yield PassageInstruction(asked, Passage(asked.text, 0), record.wording)
        return
    room = builder.room(asked.items, _with_input(record.wording, ""))
    for passage in passages(asked.text, min(room, limit or room), builder.measure):
        part = Instruction(asked.task, asked.items, passage.text, asked.language)
        yield PassageInstruction(part, passage, _with_input(record.wording, passage.text))


def _with_input(wording: str, text: str) -> str:
    """An instruction with another text, everything else as it is."""
    value: dict[str, Any] = json.loads(wording)
    return dumps({**value, "input": text})
