"""Annotated data into training and test instructions, and from one form into another."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iepile_cli.conversion.convert_all import convert
    from iepile_cli.conversion.file_report import Report
    from iepile_cli.conversion.options import ConvertOptions
    from iepile_cli.conversion.plan import Plan
    from iepile_cli.conversion.readers import read_gold

# Loaded on first use: the command line looks at the options alone.
_HOMES = {
    "ConvertOptions": "options",
    "Plan": "plan",
    "Report": "file_report",
    "convert": "convert_all",
    "read_gold": "readers",
}

__all__ = ["ConvertOptions", "Plan", "Report", "convert", "read_gold"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(name)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
