"""The built-in templates against the reference vectors, and the form of a template."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import vector_cases

from iepile_cli.errors import ModelError
from iepile_cli.templates import (
    Bos,
    Control,
    Eos,
    Piece,
    Template,
    Text,
    encode,
    from_chat_template,
)
from iepile_cli.templates.builtin import TEMPLATES
from iepile_cli.templates.template import closest_template

ROWS = {template.name: template for template in TEMPLATES}
# In the vectors these rows hold their control tokens inside a text.
_TOKENS_IN_TEXT = {"llama3", "llama3_zh"}


class Symbolic:
    """A tokenizer whose ids are what was asked for."""

    bos: Any = ("<bos>", "BOS")
    eos: Any = ("<eos>", "EOS")
    add_bos = True
    chat_template = None

    def control(self, token: str) -> Any:
        return ("token", token)

    def text(self, text: str) -> Any:
        return [("text", text)]

    control_ids: frozenset[Any] = frozenset()

    def controls(self) -> Mapping[str, Any]:
        return {}


def symbols(pieces: tuple[Piece, ...], tokenizer: Symbolic | None = None) -> list[Any]:
    return list(encode(pieces, tokenizer or Symbolic()))


def joined(items: list[Any]) -> list[str]:
    """What stands between one BOS and the next, as one text."""
    runs = [""]
    for kind, value in items:
        if kind == "<bos>":
            runs.append("")
        else:
            runs[-1] += value
    return runs


def case_name(case: dict[str, Any]) -> str:
    return f"{case['template']}-{case['system']}-{case['history']}"


@pytest.mark.parametrize("case", vector_cases("templates"), ids=case_name)
def test_pieces_are_those_of_the_training_code(case: dict[str, Any]) -> None:
    template = ROWS[case["template"]]
    history = [("Q1", "A1")] if case["history"] else []
    prompt = template.prompt("QUERY", None if case["system"] == "default" else "SYS", history)
    got = symbols(prompt.pieces)
    expected = [tuple(item) for item in case["oneturn_prompt"]]
    if template.name in _TOKENS_IN_TEXT:
        got, expected = joined(got), joined(expected)
    assert got == expected
    answer = [value for _, value in symbols(template.answer("RESP"))]
    assert answer == [value for _, value in case["oneturn_answer"]]
    assert (template.stop, template.system) == (tuple(case["stop_words"]), case["default_system"])
    assert (template.efficient_eos, template.replace_eos, template.keeps_history) == (
        case["efficient_eos"],
        case["replace_eos"],
        case["use_history"],
    )
    ends = [value for _, value in symbols((template.end,))]
    assert ends == [case["final_eos"]]


def test_every_name_of_the_vectors_has_a_row() -> None:
    names = {case["template"] for case in vector_cases("templates")}
    if not names:
        pytest.skip("the reference material is not beside the repository")
    assert names <= set(ROWS)
    assert len(ROWS) == len(TEMPLATES)


def test_a_tokenizer_without_bos_gets_none() -> None:
    tokenizer = Symbolic()
    tokenizer.add_bos = False
    assert symbols(ROWS["vanilla"].prompt("Q").pieces, tokenizer) == [("text", "Q")]


def test_slots_in_the_users_text_stay_as_they_are() -> None:
    # Upstream fills {{idx}} and {{query}} inside the user's text too.
    text = "see {{idx}} and {{query}} and {{system}}"
    for template in TEMPLATES:
        prompt = template.prompt(text, "S {{query}} {{idx}}")
        pieces = [piece.text for piece in prompt.pieces if isinstance(piece, Text)]
        assert sum(text in piece for piece in pieces) == 1, template.name
        assert prompt.user == text
    asked = ROWS["chatglm2"].prompt(text, "", [("first {{idx}}", "one")])
    assert [piece.text for piece in asked.pieces if isinstance(piece, Text)][-1] == (
        f"[Round 2]\n\n问：{text}\n\n答："
    )


def test_an_empty_system_text_leaves_out_the_separator_but_keeps_the_marks() -> None:
    assert ROWS["alpaca"].prompt("Q", "").pieces == (
        Bos(),
        Text("### Instruction:\nQ\n\n### Response:\n"),
    )
    assert ROWS["qwen"].prompt("Q", "").pieces[1:5] == (
        Control("<|im_start|>"),
        Text("system\n"),
        Control("<|im_end|>"),
        Text("\n"),
    )
    assert ROWS["llama2"].prompt("Q", "").pieces[1] == Text(
        "[INST] <<SYS>>\n\n<</SYS>>\n\nQ [/INST]"
    )


def test_the_form_of_llama2_follows_its_flag_and_not_its_name() -> None:
    # Upstream takes every name that contains "llama2" for a template of that class.
    plain = dataclasses.replace(ROWS["alpaca"], name="my_llama2")
    assert plain.prompt("Q").pieces == ROWS["alpaca"].prompt("Q").pieces
    renamed = dataclasses.replace(ROWS["llama2"], name="other")
    assert renamed.prompt("Q").pieces == ROWS["llama2"].prompt("Q").pieces


def test_a_template_may_be_given_as_plain_strings() -> None:
    tiny = Template("tiny", question=("Q: {{query}}\nA:",))
    assert tiny.prompt("why?").pieces == (Bos(), Text("Q: why?\nA:"))
    assert tiny.answer("so") == (Text("so"), Eos())
    assert tiny.answer("") == (Eos(),)


def test_the_hash_is_of_the_form_alone() -> None:
    alpaca = ROWS["alpaca"]
    assert alpaca.hash() == dataclasses.replace(alpaca, name="other", models=()).hash()
    assert alpaca.hash() != dataclasses.replace(alpaca, separator=("\n",)).hash()
    assert alpaca.hash() != dataclasses.replace(alpaca, system="").hash()
    # Text in pieces or as strings is the same form; a control token is another.
    question = ("<a>{{query}}",)
    assert Template("x", question).hash() == Template("x", (Text(question[0]),)).hash()
    assert Template("x", question).hash() != Template("x", (Control("<a>"), "{{query}}")).hash()
    assert len({template.hash() for template in TEMPLATES}) == len(
        {
            str(template.prompt("Q", None, [("a", "b")])) + str(template.end)
            for template in TEMPLATES
        }
    )


# Adapter folders hold these (whole); one that changes makes every adapter trained with it look
# unfit. They also stand for the form of the rows where the reference vectors are not at hand.
HASHES = {
    "alpaca": "4a79a3b4dcca7f82",
    "aquila": "0d16d43392f42bca",
    "baichuan": "580ed91f5961d590",
    "baichuan2": "ae1f622746a50547",
    "belle": "01d78d86f47221de",
    "bluelm": "f95822225d0b9058",
    "chatglm2": "ebfc307d9a9e471a",
    "chatglm3": "a00adae5a430d9cd",
    "deepseek": "12d3259c2174fc18",
    "default": "13b6b1ef416cbc11",
    "falcon": "9913fe1972613ff2",
    "intern": "424e28823b4e742c",
    "llama2": "b442618d3fd9562d",
    "llama2_zh": "61f9d4375ce18072",
    "llama3": "3538adf8068e39a0",
    "llama3_zh": "be8b8ffacf472236",
    "mistral": "a93a39333705014c",
    "openba": "9b680bcf192fa44a",
    "openchat": "21da89e0a833f7c1",
    "qwen3": "02406be8715b0b87",
    "qwen": "ca4e655c80c6c863",
    "starchat": "497e66cd6c8ba897",
    "vanilla": "f049e9672b44ae09",
    "vicuna": "03a800b9e5daaba3",
    "xverse": "0dfe50f741a97c33",
    "yayi": "1848484f79a69c13",
    "zephyr": "def5ab091c93fd3a",
    "ziya": "9d16ab22eef324de",
}


def test_the_hashes_do_not_change_between_releases() -> None:
    assert {template.name: template.hash()[:16] for template in TEMPLATES} == HASHES


def test_a_missing_control_token_names_template_and_token() -> None:
    class Plain(Symbolic):
        def control(self, token: str) -> Any:
            return None

    with pytest.raises(ModelError, match=r"'qwen'.*<\|im_start\|>"):
        ROWS["qwen"].bind(Plain())
    with pytest.raises(ModelError, match=r"<\|im_start\|>"):
        symbols(ROWS["qwen"].prompt("Q").pieces, Plain())
    assert ROWS["alpaca"].bind(Plain()) is ROWS["alpaca"]


def test_marks_that_are_text_in_some_models_join_the_text_behind_them() -> None:
    class Zephyr(Symbolic):
        def control(self, token: str) -> Any:
            return ("token", token) if token == "</s>" else None

    assert symbols(ROWS["zephyr"].prompt("Q", "S").pieces, Zephyr()) == [
        ("<bos>", "BOS"),
        ("text", "<|system|>\nS"),
        ("token", "</s>"),
        ("text", "<|user|>\nQ"),
        ("token", "</s>"),
        ("text", "<|assistant|>"),
    ]


def test_stop_ids_are_the_end_token_and_the_stop_words_that_exist() -> None:
    class Vocabulary(Symbolic):
        eos = 2

        def control(self, token: str) -> Any:
            return {"<|user|>": 7}.get(token)

    assert ROWS["chatglm3"].stop_ids(Vocabulary()) == {2, 7}


def test_every_known_checkpoint_has_the_template_that_was_made_for_it(shared: Path) -> None:
    cases = json.loads((shared / "vectors" / "models.json").read_text(encoding="utf-8"))["cases"]
    for case in cases:
        for name in (case["name"], case["path"]):
            found = [template.name for template in TEMPLATES if template.fits(name)]
            assert found == ([case["default_template"]] if case["default_template"] else []), name


@pytest.mark.parametrize(
    ("model", "template"),
    [
        ("zjunlp/OneKE", "llama2_zh"),
        ("models/OneKE.Q4_K_M.gguf", "llama2_zh"),
        ("zjunlp/llama2-13b-iepile-lora", "llama2"),
        ("zjunlp/baichuan2-13b-iepile-lora", "baichuan2"),
        ("zjunlp/llama3-8b-iepile-lora", "alpaca"),
        ("zjunlp/qwen1.5-14b-iepile-lora", "qwen"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "qwen"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama3"),
        ("mistralai/Mistral-7B-Instruct-v0.2", "mistral"),
        ("mistralai/Mistral-7B-Instruct-v0.3", None),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", None),
        ("Qwen3-4B", "qwen3"),
        ("", None),
    ],
)
def test_names_of_models_in_use(model: str, template: str | None) -> None:
    found = closest_template(model, TEMPLATES)
    assert (found.name if found else None) == template


# The end of the template that Qwen3 comes with; the beginning is that of ChatML.
_QWEN3 = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content "
    "+ '<|im_end|>\\n' }}{%- endfor %}{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}"
)


@pytest.mark.parametrize("system", ["", "S"])
def test_qwen3_answers_without_thinking_as_its_own_template_has_it(system: str) -> None:
    class Qwen(Symbolic):
        def controls(self) -> Mapping[str, int]:
            names = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")
            return {name: number for number, name in enumerate(names)}

    own = from_chat_template(_QWEN3, Qwen())
    expected, made = (
        "".join(
            value for kind, value in symbols(each.prompt("Q", system).pieces) if "bos" not in kind
        )
        for each in (own, ROWS["qwen3"])
    )
    assert made == expected
    assert made.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert made.startswith("<|im_start|>system\nS" if system else "<|im_start|>user\nQ")


def test_names_of_qwen3_that_can_think_go_to_its_row() -> None:
    for name in ("Qwen3-8B", "Qwen/Qwen3-1.7B-GGUF", "Qwen3-4B-Q4_K_M.gguf", "qwen3-0.6b"):
        found = closest_template(name, TEMPLATES)
        assert found is not None
        assert found.name == "qwen3"
    for name in ("Qwen3-4B-Instruct-2507", "Qwen3-4B-Thinking-2507"):
        assert closest_template(name, TEMPLATES) is None
