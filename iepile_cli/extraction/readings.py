"""How often a schema is put to a text, each time in which order and in batches of which size.

Goes in: a schema and the options. Comes out: its batches for each reading.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from iepile_cli.task.instruction import batches
from iepile_cli.task.shape import SchemaItem
from iepile_cli.task.table import Task

if TYPE_CHECKING:
    from iepile_cli.extraction.requests import ExtractOptions

# A schema as it is put in one reading.
SchemaBatches: TypeAlias = tuple[tuple[SchemaItem, ...], ...]


def schema_orders(schema: Sequence[SchemaItem], count: int) -> list[tuple[SchemaItem, ...]]:
    """Different orders of a schema: as it is, backwards, then shuffled; fewer where it is short."""
    orders = {tuple(schema): None, tuple(reversed(schema)): None}
    # A few tries more than are needed: two shuffles may be the same.
    for seed in range(4 * count):
        shuffled = list(schema)
        random.Random(seed).shuffle(shuffled)
        orders.setdefault(tuple(shuffled))
    return list(orders)[:count]


def schema_readings(
    task: Task, schema: Sequence[SchemaItem], options: ExtractOptions
) -> tuple[int, list[SchemaBatches]]:
    """How often each passage is put, and the schema in the batches of each time.

    Orders of the schema and sizes of batches take turns. Two sizes that cut this schema alike are
    one. Raises ``UsageError`` for a bad number.
    """
    sizes = list({tuple(batches(schema, n)): n for n in options.types_at_once(task)}.values())
    votes = options.votes or len(sizes)
    count = options.passes * votes
    orders = schema_orders(schema, count)
    found = [
        tuple(batches(orders[number % len(orders)], sizes[number % len(sizes)]))
        for number in range(count)
    ]
    return votes, list(dict.fromkeys(found))
