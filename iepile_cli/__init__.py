"""Schema-based information extraction with language models.

The names below are loaded on first use, so that importing the package stays cheap::

    import iepile_cli as iepile

    with iepile.load() as model:
        result = model.extract("Tim Cook flew to Dublin.", "person,location")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iepile_cli.api import (
        Extraction,
        Extractor,
        Item,
        Mention,
        Schema,
        convert,
        evaluate,
        load,
        read_documents,
        read_schema,
        summarise,
        train,
        write_page,
    )
    from iepile_cli.errors import (
        DataError,
        DownloadError,
        IEPileError,
        ModelError,
        PartialFailure,
        UnknownName,
        UsageError,
    )
    from iepile_cli.registry import Registry

__version__ = "0.1.0"

__all__ = [
    "DataError",
    "DownloadError",
    "Extraction",
    "Extractor",
    "IEPileError",
    "Item",
    "Mention",
    "ModelError",
    "PartialFailure",
    "Registry",
    "Schema",
    "UnknownName",
    "UsageError",
    "__version__",
    "convert",
    "evaluate",
    "load",
    "read_documents",
    "read_schema",
    "summarise",
    "train",
    "write_page",
]

_HOMES = {"Registry": "registry"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES.get(name) or ("errors" if name.endswith(("Error", "Failure", "Name")) else "api")
    return getattr(import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
