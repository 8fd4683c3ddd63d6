"""Which template a model gets when none is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from vocabularies import llama_cpp_tokenizer

from iepile_cli.backends.opening import fitting_template, open_model
from iepile_cli.errors import ModelError
from iepile_cli.models import Resolved
from iepile_cli.registry import registry
from iepile_cli.templates import Tokenizer


class Bare:
    """A model that brings no chat template."""

    chat_template = None


@pytest.mark.parametrize(
    ("name", "path", "template"),
    [
        ("llama-2-7b-chat.Q4_K_M.gguf", "/models/llama-2-7b-chat.Q4_K_M.gguf", "llama2"),
        ("owner/OneKE-GGUF", "/cache/model.gguf", "llama2_zh"),
        ("/models/x", "/models/x/qwen1.5-14b-chat.gguf", "qwen"),
        ("/models/x", "/models/x/model.gguf", "auto"),
    ],
)
def test_an_older_file_is_known_by_its_name(name: str, path: str, template: str) -> None:
    found = Resolved(name, Path(path), "gguf")
    tokenizer: Tokenizer = Bare()  # type: ignore[assignment]
    assert fitting_template(found, tokenizer, registry()).name == template


def test_the_catalogue_comes_first_and_then_the_models_own() -> None:
    tokenizer = llama_cpp_tokenizer("smollm2")
    said = Resolved("oneke", Path("qwen1.5-14b.gguf"), "gguf", template="llama2_zh")
    assert fitting_template(said, tokenizer, registry()).name == "llama2_zh"
    own = Resolved("qwen1.5-14b.gguf", Path("qwen1.5-14b.gguf"), "gguf")
    assert fitting_template(own, tokenizer, registry()).name == "auto"


@pytest.mark.model
def test_a_template_that_does_not_fit_the_model_is_refused() -> None:
    with pytest.raises(ModelError, match=r"'llama3' needs the control token <\|start_header_id\|>"):
        open_model(template="llama3")
