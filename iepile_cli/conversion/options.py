"""What a conversion can be told: the one place where an option's default and help are written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from iepile_cli.fields import option
from iepile_cli.shards import Shard, parse_shard

AUTO = "auto"
_SCHEMA, _TYPES, _LABELS = "Schema and task", "Types asked", "Labels"

Form = Literal[
    "auto",
    "iepile",
    "bio",
    "brat",
    "spacy",
    "prodigy",
    "doccano",
    "label-studio",
    "tokens",
    "results",
]
# What annotation is written as for other programs, of records and of results alike.
GraphForm = Literal["graphml", "cypher", "turtle"]
ToolForm = Literal["conll", "brat", "spacy", "prodigy", "doccano", "label-studio", GraphForm]
GRAPH_FORMS: tuple[str, ...] = get_args(GraphForm)
# Tools that take one JSON array and no lines.
JSON_ARRAYS = frozenset(("label-studio",))
Output = Literal["rows", "records", "schema", "bio", ToolForm]


@dataclass(frozen=True)
class ConvertOptions:
    """What to convert, to what, and how; ``None`` and empty values are decided from the data.

    ``path`` None is stdin, ``output`` None stdout.
    """

    path: Path | None = None
    output: Path | None = option(
        None,
        help="Where to write. Default: standard output. .gz, .zst, .bz2 and .xz are compressed.",
        flags=("-o",),
        group="Output",
    )
    to: Output = option(
        "rows",
        help="What to make: rows (instructions), unified records, a schema, a tool's format, or "
        "a graph.",
        group="Output",
    )
    form: Form = option("auto", help="Format of SRC.", flags=("--from",), group=_SCHEMA)
    task: str | None = option(
        None,
        help="NER, RE, SPO, EE, EET, EEA or KG. Default: as the path or the format says.",
        completes="task",
        group=_SCHEMA,
    )
    schema: tuple[str, ...] = option(
        (),
        help="Schema file, or names; auto infers it from the data. Default: schema.json beside "
        "SRC.",
        group=_SCHEMA,
    )
    language: Literal["auto", "en", "zh"] = option(
        "auto",
        help="Language of the instructions; auto: by the path, else by each text.",
        flags=("--lang",),
        group=_SCHEMA,
    )
    split: Literal["train", "test"] | None = option(
        None, help="Kind of rows. Default: test for files named test, else train.", group="Output"
    )
    split_num: int | None = option(
        None,
        help="Schema items in one instruction; -1 for all. Default: NER 6, KG 1, others 4.",
        group=_TYPES,
    )
    neg_ratio: float = option(
        1.0, help="Chance for each absent type to be asked; -1 asks all.", group=_TYPES
    )
    shuffle: bool = option(
        False, help="Schema items of training rows in random order.", group=_TYPES
    )
    hard_negatives: tuple[str, ...] = option(
        (),
        help="Dictionary or confusions file, or auto to mine the data; may be repeated.",
        group=_TYPES,
    )
    write_hard_negatives: Path | None = option(
        None, help="Write the dictionary of hard negatives to this file.", group=_TYPES
    )
    split_arguments: int = option(
        0, help="Ask at most so many arguments of a type at once; 0 asks all.", group=_TYPES
    )
    triggers: Literal["train", "always", "never"] = option(
        "train", help="Rows that show given triggers (EEA).", group=_TYPES
    )
    rename_labels: Path | None = option(
        None, help='File of new names for labels: {"old": "new"}, JSON or TOML.', group=_LABELS
    )
    label_aliases: Path | None = option(
        None,
        help="File of other names and coarser labels, drawn for each training record.",
        group=_LABELS,
    )
    source: str | None = option(
        None, help="Name of the dataset. Default: the folder's name.", group=_LABELS
    )
    shard: str | None = option(
        None,
        metavar="I/N",
        help="Only part I of N of each file's records, for job arrays; `cat` joins the outputs.",
        group="Output",
    )
    sample: float = option(
        1.0, help="Convert only this share of the records, drawn.", group="Output"
    )
    dev_share: float = option(
        0.0,
        help="Share of the documents whose rows go to OUTPUT with .dev before its suffix.",
        group="Output",
    )
    max_empty_ratio: float | None = option(
        None, help="Largest share of training rows with an empty answer.", group="Output"
    )
    seed: int = option(42, help="Seed of all that is drawn.", group="Output")
    strict: bool = option(
        False, help="Stop at the first problem and write nothing.", group="Output"
    )
    workers: int | None = option(
        None, help="Worker processes. Default: one per processor, at most 8.", group="Output"
    )

    @property
    def part(self) -> Shard | None:
        """The part of each file's records that is asked for, None for the whole."""
        return None if self.shard is None else parse_shard(self.shard)
