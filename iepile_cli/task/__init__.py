"""Tasks, schemas, instructions, grammars and answers, all without a model.

Standard library only. Everything else in the package builds on this room.
"""

from iepile_cli.task.instruction import (
    Instruction,
    answer_json,
    batches,
    instruction_json,
    parse_answer,
)
from iepile_cli.task.shape import Roles, SchemaItem
from iepile_cli.task.table import TASKS, Task, task_named

__all__ = [
    "TASKS",
    "Instruction",
    "Roles",
    "SchemaItem",
    "Task",
    "answer_json",
    "batches",
    "instruction_json",
    "parse_answer",
    "task_named",
]
