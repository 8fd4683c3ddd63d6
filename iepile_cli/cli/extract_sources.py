"""What ``iepile extract`` reads: texts with a schema, or instruction records."""

from __future__ import annotations

import itertools
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from iepile_cli.cli import console
from iepile_cli.cli.options import ModelOptions, SchemaOptions
from iepile_cli.encodings import check_encoding
from iepile_cli.errors import IEPileError, ModelError, UsageError
from iepile_cli.extraction.blocks import in_blocks, read_pieces, take_inventory
from iepile_cli.extraction.inputs import file_reader, is_piped, read_documents
from iepile_cli.extraction.paths import find_files, reading_cost
from iepile_cli.fields import option_fields
from iepile_cli.files import display_name, suffix
from iepile_cli.formatting import plural
from iepile_cli.shards import refuse_streams
from iepile_cli.writing import is_same_file, refuse_overwriting

if TYPE_CHECKING:
    from iepile_cli.errors import OnError
    from iepile_cli.extraction.blocks import Inventory
    from iepile_cli.extraction.forms import OutputOptions
    from iepile_cli.extraction.inputs import Document, InputOptions, OnNote
    from iepile_cli.extraction.outputs import ResultWriter, Writer
    from iepile_cli.extraction.paths import OnSkip
    from iepile_cli.extraction.requests import ExtractOptions
    from iepile_cli.extraction.saved_texts import SavedTexts
    from iepile_cli.extraction.summary import SummaryOptions
    from iepile_cli.task import SchemaItem

# A schema that is short beside this many tokens is not measured beforehand.
_USUAL_CONTEXT = 8192
_CONTEXT_STEP = 256
# Inputs up to this size are read once beforehand, so that the time left can be told.
_COUNTED_BYTES = 200_000_000
_NAMED_FILES = 20
# Formats whose parts, one after the other, are the whole.
_JOINABLE = ("jsonl", "csv", "tsv")
# What instruction records bring themselves, or have no place for.
_NOT_WITH_INSTRUCTIONS = frozenset(
    {"schema", "language", "lines", "text_field", "input_format", "save_text", "split_num"}
    | {"overlap", "passes", "votes", "all_occurrences", "best_type", "bom", "summary"}
)


def refuse_with_instructions(
    files: list[str] | None, wanted: SchemaOptions, *others: Any, writing: OutputOptions
) -> None:
    """Raise ``UsageError`` for options that instruction records leave no room for."""
    refused = ["files"] if files else []
    for of in (wanted, *others, writing):
        refused += [
            item.flag
            for item in option_fields(of.__class__)
            if item.name in _NOT_WITH_INSTRUCTIONS and getattr(of, item.name) != item.default
        ]
    refused += ["--format"] if writing.format not in (None, "jsonl") else []
    if refused:
        raise UsageError(
            "--instructions brings its own texts and schemas: "
            f"{', '.join(refused)} cannot be used with it"
        )


def _ignore(what: Any) -> None:
    pass


class Source(ABC):
    """What is read, or the part of it that ``--shard`` names; ``noun`` is what an item is called.

    ``resumable`` says whether ``--resume`` goes on with the output.
    """

    noun = ""
    resumable = True
    schema: tuple[SchemaItem, ...] = ()

    def __init__(self, paths: Sequence[str], reading: InputOptions) -> None:
        if reading.part is not None:
            refuse_streams(paths)
        self.paths, self.reading = paths, reading
        self._exclude: tuple[str, ...] = ()

    @abstractmethod
    def read(self, on_error: OnError) -> Iterator[Document]:
        """What is to be answered; what cannot be read goes to ``on_error``."""

    @abstractmethod
    def _quiet(self) -> Iterator[Document]:
        """The same, without a word about what cannot be read."""

    def read_again(self) -> Iterator[Document] | None:
        """The same once more, or None where it cannot be read twice or is too large."""
        size = reading_cost(self.paths, exclude=self._exclude)
        return self._quiet() if size is not None and size <= _COUNTED_BYTES else None

    def named(self, error: ModelError) -> ModelError:
        """The error with what of the command line may be the reason."""
        return error

    def settings(self) -> dict[str, Any]:
        """What a resumed run has to have in common."""
        return {} if self.reading.part is None else {"shard": str(self.reading.part)}


class Texts(Source):
    """Texts from files and standard input, to which one schema is put."""

    noun = "document"

    def __init__(
        self, paths: list[str] | None, wanted: SchemaOptions, reading: InputOptions
    ) -> None:
        from iepile_cli.task.schema import read_schema
        from iepile_cli.task.table import task_named

        if not wanted.schema:
            raise UsageError(
                "no --schema: what is to be extracted?", hint="try --schema person,location"
            )
        self._given = wanted.schema
        named = task_named(wanted.task) if wanted.task else None
        self.task, items = read_schema(wanted.schema, named)
        self.schema = tuple(items)
        if not paths and not is_piped():
            raise UsageError("nothing to read", hint="name files, or pipe a text in")
        super().__init__(paths or ["-"], reading)
        self._inventory: Inventory | None = None
        self._saved: SavedTexts | None = None

    def writer(self, writing: OutputOptions, counting: SummaryOptions) -> ResultWriter:
        """The writer of the results; raises ``UsageError`` for an output that is an input.

        Where stdout is for a summary alone, results go nowhere.
        """
        from iepile_cli.extraction import outputs
        from iepile_cli.extraction.forms import FOLDER, RESUMABLE
        from iepile_cli.extraction.resuming import SETTINGS
        from iepile_cli.extraction.saved_texts import SavedTexts

        output, part = writing.output, self.reading.part
        if writing.summary and output is None:
            output = os.devnull
        format_ = writing.format or outputs.format_for(output)
        if format_ == "html" and output in (None, "-") and sys.stdout.isatty():
            raise UsageError("a page is not for a terminal", hint="-o page.html")
        if output is not None and output != "-":
            refuse_overwriting([output], [*self.paths, *self._schema_files()])
            partial = output + outputs.PART
            self._exclude = (output, partial, output + SETTINGS, partial + SETTINGS)
            self._refuse_overwriting_inside(output)
            if format_ == FOLDER:
                self.refuse_folder_inside(output)
        self.resumable = format_ in RESUMABLE
        if part is not None and format_ not in _JOINABLE:
            raise UsageError(
                f"--shard: outputs of the format {format_} cannot be joined",
                hint=f"formats: {', '.join(_JOINABLE)}",
            )
        # Wrong options are said before a file is made.
        self._quiet()
        if (folder := self.reading.save_text) is not None:
            self._saved = SavedTexts(folder, [*self.paths, *self._schema_files()])
            self._exclude = (*self._exclude, folder)
        return outputs.open_writer(
            format_,
            output,
            task=self.task,
            resume=writing.resume,
            bom=writing.bom,
            counting=counting,
            settings=self.settings(),
            header=part is None or part.first,
        )

    def settings(self) -> dict[str, Any]:
        """What a resumed run has to have in common."""
        from iepile_cli.task.instruction import schema_json

        return {
            "task": self.task.name,
            "schema": schema_json(self.task, self.schema),
            "types": list(dict.fromkeys(item.type for item in self.schema)),
            **super().settings(),
        }

    def _refuse_overwriting_inside(self, output: str) -> None:
        """Refuse an output in an input folder, or matched by a glob, that is no earlier output."""
        from iepile_cli.extraction.resuming import holds_results

        if not os.path.isfile(output) or holds_results(output):
            return
        same = suffix(output)
        found = (path for path in find_files(self.paths, _ignore) if suffix(path) == same)
        if any(is_same_file(output, path) for path in found):
            raise UsageError(
                f"{output} would overwrite what is read from it", hint="name another output"
            )

    def refuse_folder_inside(self, output: str) -> None:
        """Refuse a folder of results in one that is read: what is written would be read too."""
        inside = os.path.realpath(output)
        for path in filter(os.path.isdir, self.paths):
            if os.path.commonpath([inside, os.path.realpath(path)]) == os.path.realpath(path):
                raise UsageError(f"{output} is in {path}, which is read", hint="name another -o")

    def read(self, on_error: OnError) -> Iterator[Document]:
        """The documents; files of a folder that are passed over are named at the end."""
        skipped: list[str] = []
        documents = self._blocks(on_error, skipped.append, console.note)
        yield from self._saved.saving(documents) if self._saved else documents
        name_skipped(skipped)

    def _quiet(self) -> Iterator[Document]:
        return self._blocks(_ignore, _ignore, _ignore)

    def inventory(self, on_error: OnError, on_skip: OnSkip) -> Inventory:
        """What files there are and how many documents each has; they are read through once."""
        if self._inventory is None:
            paths = find_files(self.paths, on_error, exclude=self._exclude, on_skip=on_skip)
            reader = file_reader(self.reading)
            self._inventory = take_inventory(paths, reader, self.reading.limit)
        return self._inventory

    def _blocks(self, on_error: OnError, on_skip: OnSkip, on_note: OnNote) -> Iterator[Document]:
        documents = self.documents(on_error, on_skip, on_note)
        return (
            in_blocks(documents)
            if self.reading.part is None
            else self._part(on_error, on_skip, on_note)
        )

    def _part(self, on_error: OnError, on_skip: OnSkip, on_note: OnNote) -> Iterator[Document]:
        part = self.reading.part
        assert part is not None
        # What is wrong with the inputs as a whole is said by the first part.
        told = (on_error, on_skip) if part.first else (_ignore, _ignore)
        pieces, first = self.inventory(*told).pieces(part)
        reader = file_reader(self.reading, on_note)
        yield from in_blocks(read_pieces(pieces, reader, on_error), first)

    def documents(
        self, on_error: OnError, on_skip: OnSkip = _ignore, on_note: OnNote = _ignore
    ) -> Iterator[Document]:
        """All documents, whatever part is asked for."""
        return read_documents(
            self.paths,
            self.reading,
            exclude=self._exclude,
            on_error=on_error,
            on_skip=on_skip,
            on_note=on_note,
        )

    def check_room(
        self,
        how: ExtractOptions,
        named: ModelOptions,
        template: str | None,
        context: int,
    ) -> None:
        """Raise ``ModelError`` when a long schema leaves no room for a text.

        Where the model's context and tokenizer are known before it is loaded.
        """
        from iepile_cli.backends.opening import fitting_template, tokenizer_of
        from iepile_cli.extraction.requests import check_room, may_lack_room
        from iepile_cli.models import resolve_model
        from iepile_cli.registry import registry

        if not may_lack_room(self.task, self.schema, how, context or _USUAL_CONTEXT):
            return
        try:
            found = resolve_model(named.model, named.adapter, language=how.language)
        except IEPileError:
            # Behind a server, or wrong: that is for what opens the model to say.
            return
        context = context or (found.entry.context if found.entry else None) or 0
        if not context:
            return
        # llama.cpp makes a context of whole multiples of this.
        context += -context % _CONTEXT_STEP
        tokenizer = tokenizer_of(found)
        form = (
            registry().get("template", template)
            if template
            else fitting_template(found, tokenizer, registry())
        )
        try:
            check_room(self.task, self.schema, how, tokenizer, form, context)
        except ModelError as error:
            raise self.named(error) from None

    def _schema_files(self) -> list[str]:
        names = [given.removeprefix("@") for given in self._given]
        return [name for name in names if os.path.isfile(name)]

    def named(self, error: ModelError) -> ModelError:
        """The error, with the schema files whose size may be the reason."""
        files = self._schema_files()
        if not files or "schema" not in error.message:
            return error
        types = plural(len(self.schema), "type")
        return ModelError(f"{', '.join(files)} ({types}): {error.message}", hint=error.hint)


class InstructionRecords(Source):
    """Instruction records, which bring their texts and schemas."""

    noun = "record"

    def __init__(self, path: str, task: str | None, reading: InputOptions) -> None:
        from iepile_cli.task.table import task_named

        check_encoding(reading.encoding)
        super().__init__([path], reading)
        self._task = task_named(task) if task else None

    def writer(self, writing: OutputOptions, counting: SummaryOptions) -> Writer:
        """The writer of the records, which are not counted.

        Raises ``UsageError`` for an output that is the input.
        """
        from iepile_cli.extraction import outputs

        if writing.format is None:
            outputs.format_for(writing.output, records=True)
        refuse_overwriting([writing.output], self.paths)
        return outputs.open_record_writer(
            writing.output, resume=writing.resume, settings=self.settings()
        )

    def read(self, on_error: OnError) -> Iterator[Document]:
        """The records."""
        part, limit = self.reading.part, self.reading.limit
        if part is None:
            return in_blocks(itertools.islice(self._read_file(self.paths[0], on_error), limit))
        pieces, first = take_inventory(self.paths, self._read_file, limit).pieces(part)
        return in_blocks(read_pieces(pieces, self._read_file, on_error), first)

    def _quiet(self) -> Iterator[Document]:
        return self.read(_ignore)

    def _read_file(self, path: str, on_error: OnError) -> Iterator[Document]:
        from iepile_cli.extraction.instruction_records import read_instructions

        return read_instructions(path, on_error, task=self._task, encoding=self.reading.encoding)


def name_skipped(skipped: list[str]) -> None:
    """Name on stderr the files of folders that were passed over."""
    if not skipped:
        return
    shown = skipped if console.verbosity.verbose else skipped[:_NAMED_FILES]
    more = f" and {len(skipped) - len(shown)} more (-v names all)" if skipped[len(shown) :] else ""
    console.note(
        f"passed over {plural(len(skipped), 'file')} of a kind that is not read: "
        f"{', '.join(map(display_name, shown))}{more}; to read one all the same, name it"
    )
