"""Rendering of chat templates, which are programs from strangers: in a sandbox.

The surroundings are those that model makers write for: the filters, functions and tags of the
transformers library's ``apply_chat_template``.
"""

from __future__ import annotations

import functools
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from jinja2 import Template

# A prompt must not change from day to day; this is the date that Llama 3 names by default.
_TODAY = datetime(2024, 7, 26)


class JinjaError(Exception):
    """A chat template that cannot be read or rendered, or that refuses its messages."""


def render(source: str, **values: Any) -> str:
    """Render a chat template; raises ``JinjaError``."""
    try:
        return _compiled(source).render(tools=None, documents=None, **values)
    # The template is foreign code: whatever goes wrong in it is one kind of error here.
    except Exception as error:
        raise JinjaError(f"{type(error).__name__}: {error}") from None


@functools.lru_cache(maxsize=16)
def _compiled(source: str) -> Template:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", _generation_tag()],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _TODAY.strftime
    return environment.from_string(source)


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    # Jinja's own filter escapes for HTML.
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


def _raise_exception(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


@functools.cache
def _generation_tag() -> type:
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class Generation(Extension):
        """``{% generation %}`` frames what the model is trained on; rendered as if not there."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return Generation
