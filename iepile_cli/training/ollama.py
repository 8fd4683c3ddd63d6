"""A Modelfile for Ollama: the same template as in training, in Go's template language."""

from __future__ import annotations

from collections.abc import Iterable

from iepile_cli.errors import ModelError
from iepile_cli.models.adapter_settings import AdapterSettings
from iepile_cli.templates import Control, Eos, Piece, Template, Text, Tokenizer
from iepile_cli.templates.prompt import eos_id

# Stands for the question; no template looks for a private character.
_QUERY = "\ue011"


def modelfile(
    template: Template,
    tokenizer: Tokenizer,
    model: str,
    settings: AdapterSettings | None,
    context: int,
) -> str:
    """The Modelfile of a model file beside it; ``context`` is the longest sequence in tokens.

    Raises ``ModelError`` for a template that Ollama's form cannot hold.
    """
    named = {token: text for text, token in tokenizer.controls().items()}
    stops = sorted(named[i] for i in template.stop_ids(tokenizer) if i in named)
    system = settings.system if settings and settings.system is not None else None
    lines = [
        f"# Template {template.name}, as the model was trained. Send the instruction JSON",
        "# of iepile as the user's text; temperature 0 gives the likeliest answer.",
        f"FROM ./{model}",
        f'TEMPLATE """{go_template(template, tokenizer, system)}"""',
        "PARAMETER temperature 0",
        # Its usual penalty changes which names are copied twice.
        "PARAMETER repeat_penalty 1",
        # What does not fit into its context Ollama cuts off a prompt without a word.
        f"PARAMETER num_ctx {context}",
        *(f'PARAMETER stop "{stop}"' for stop in stops),
    ]
    return "\n".join(lines) + "\n"


def go_template(template: Template, tokenizer: Tokenizer, system: str | None = None) -> str:
    """The first turn of a conversation as Ollama fills it: the prompt, then the response.

    The system text is written out as it was in training.
    """
    asked = _spelled(template.prompt(_QUERY, system).pieces, tokenizer)
    if asked.count(_QUERY) != 1 or '"""' in asked:
        raise ModelError(f"the template {template.name!r} cannot be written for Ollama")
    before, after = (_escaped(part) for part in asked.split(_QUERY))
    end = _escaped(_spelled((template.end,), tokenizer))
    return f"{before}{{{{ .Prompt }}}}{after}{{{{ .Response }}}}{end}"


def _escaped(text: str) -> str:
    """Text in which Go's template language finds nothing to fill in."""
    return text.replace("{{", '{{ "{{" }}')


def _spelled(pieces: Iterable[Piece], tokenizer: Tokenizer) -> str:
    named = {token: text for text, token in tokenizer.controls().items()}
    spelled = ""
    for piece in pieces:
        if isinstance(piece, Text):
            spelled += piece.text
        elif isinstance(piece, Control):
            spelled += piece.token
        elif isinstance(piece, Eos):
            spelled += named.get(eos_id(tokenizer), "")
        # The opening token is put by llama.cpp itself where a model wants one.
    return spelled
