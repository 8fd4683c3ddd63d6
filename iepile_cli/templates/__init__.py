"""Chat templates: the prompt of a question, down to the token.

A ``Template`` turns text into a ``Prompt``, a row of pieces in which control tokens stand apart
from text; ``encode`` turns pieces into token ids with a model's tokenizer. Control tokens come
from a template's own parts alone, never from the user's text.
"""

from __future__ import annotations

from iepile_cli.templates.chat import AUTO, ChatTemplate, from_chat_template
from iepile_cli.templates.prompt import Bos, Control, Eos, Piece, Prompt, Text, Tokenizer, encode
from iepile_cli.templates.template import Template, closest_template

__all__ = [
    "AUTO",
    "Bos",
    "ChatTemplate",
    "Control",
    "Eos",
    "Piece",
    "Prompt",
    "Template",
    "Text",
    "Tokenizer",
    "closest_template",
    "encode",
    "from_chat_template",
]
