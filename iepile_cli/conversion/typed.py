"""Records of the usual form decoded in C, by types made from a task's layout.

Whatever has another form is a ``msgspec.DecodeError``: such a record is read the general way
(``gold.py``), which says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import GenericAlias
from typing import Any

import msgspec

from iepile_cli.task.table import Layout, Task


class RecordDecoder:
    """Decodes whole records.

    What ``decode`` gives has ``text``, ``id``, ``doc_id`` and ``entries``: None where there is no
    annotation, else a list of objects with ``kind``, ``role0``, ``role1`` (the layout's fixed
    roles), ``subject_type``, ``object_type``, ``slots`` or ``slot`` and ``filler``, as the layout
    has them. With ``raw``, entries are given by ``entries_of``.
    """

    def __init__(self, task: Task, *, raw: bool) -> None:
        entries: Any = GenericAlias(list, (_entry_type(task.layout),))
        bare: Any = GenericAlias(list, (_entry_type(task.layout, bare=True),))
        self._raw = msgspec.json.Decoder(entries) if raw else None
        self._bare = msgspec.json.Decoder(bare)
        kind: Any = msgspec.Raw if raw else entries | None
        record: Any = msgspec.defstruct(
            "Record",
            [
                ("text", str),
                ("entries", kind, msgspec.Raw(b"null") if raw else None),
                ("id", Any, None),
                ("doc_id", Any, None),
            ],
            rename={"entries": task.layout.field},
        )
        self.decode: Callable[[bytes], Any] = msgspec.json.Decoder(record).decode

    def entries_of(self, record: Any) -> tuple[bytes, Any, bool]:
        """The JSON text of a record's annotation, what it decodes to, whether it is all strings.

        Raises ``msgspec.DecodeError`` where there is none.
        """
        assert self._raw is not None
        text = bytes(record.entries)
        try:
            return text, self._bare.decode(text), True
        except msgspec.DecodeError:
            return text, self._raw.decode(text), False


def _entry_type(layout: Layout, *, bare: bool = False) -> Any:
    """The type of an annotation's entry; ``kind`` is the label, ``role0`` the first fixed role.

    With ``bare``, an entry has no other fields.
    """
    keys = {"kind": layout.type}
    required: list[Any] = []
    optional: list[Any] = []
    (optional if layout.by_head else required).append("kind")
    for number, (_, key) in enumerate(layout.roles):
        keys[f"role{number}"] = key
        # Events may lack their trigger.
        (optional if layout.slot_list or not layout.unique else required).append(f"role{number}")
    for name in ("subject_type", "object_type"):
        if key := getattr(layout, name):
            keys[name] = key
            required.append(name)
    fields = [(name, str) for name in required]
    if layout.by_head:
        keys |= {"slot": layout.slot_role, "filler": layout.slot_text}
        fields += [("slot", str), ("filler", str)]
    fields += [(name, str, "") for name in optional]  # type: ignore[misc]
    if layout.slot_list:
        slot = msgspec.defstruct(
            "Slot",
            [("slot", str), ("filler", str)],
            rename={"slot": layout.slot_role, "filler": layout.slot_text},
            gc=False,
            forbid_unknown_fields=bare,
        )
        keys["slots"] = layout.slot_list
        fields.append(("slots", tuple[slot, ...], ()))  # type: ignore[valid-type, arg-type]
    return msgspec.defstruct("Entry", fields, rename=keys, gc=False, forbid_unknown_fields=bare)
