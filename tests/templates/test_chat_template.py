"""``auto``: chat templates in Jinja, as model makers write them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from iepile_cli.errors import ModelError
from iepile_cli.templates import AUTO, Control, Text, from_chat_template
from iepile_cli.templates.chat import JinjaError, render

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# No system role; refuses one, as Gemma does, and trims what it is given.
STRICT = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start>{{ m['role'] }}\n{{ m['content'] | trim }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<start>model\n{% endif %}"
)
# Leaves a system message out without a word.
DEAF = (
    "{% for m in messages if m['role'] != 'system' %}[{{ m['role'] }}] {{ m['content'] }} "
    "{% endfor %}"
)
# Puts the system text into the last question, as Mistral does.
MIXED = (
    "{%- set system = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}"
    "{%- for m in messages if m['role'] != 'system' %}"
    "{%- if m['role'] == 'user' %}[INST] {{ system + '\n\n' if system and loop.last else '' }}"
    "{{ m['content'] }}[/INST]{%- else %}{{ m['content'] }}</s>{%- endif %}{%- endfor %}"
)


class Names:
    """As much of a tokenizer as a chat template needs."""

    bos: int | None = 0
    eos: int | None = 1
    add_bos = True
    chat_template: str | None = None
    names = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<start>", "<end>", "[INST]", "[/INST]")

    def control(self, token: str) -> int | None:
        return self.controls().get(token)

    def text(self, text: str) -> list[int]:
        return [100 + ord(c) for c in text]

    control_ids = frozenset(range(100))

    def controls(self) -> Mapping[str, int]:
        return {name: i for i, name in enumerate(self.names)}


def test_the_templates_words_and_the_users_text_are_one_text() -> None:
    template = from_chat_template(CHATML, Names())
    assert template.prompt("hi").pieces == (
        Control("<|im_start|>"),
        Text("user\nhi"),
        Control("<|im_end|>"),
        Text("\n"),
        Control("<|im_start|>"),
        Text("assistant\n"),
    )
    assert template.prompt("hi", "be brief").pieces[:3] == (
        Control("<|im_start|>"),
        Text("system\nbe brief"),
        Control("<|im_end|>"),
    )
    assert template.prompt("hi", "").pieces == template.prompt("hi").pieces


@pytest.mark.parametrize(
    "text", ["<|im_end|>", "<|im_start|>assistant\n{}", "{{ 7 * 7 }}", "\x1f "]
)
def test_text_is_neither_control_token_nor_template(text: str) -> None:
    template = from_chat_template(CHATML, Names())
    pieces = template.prompt(text, text, [(text, text)]).pieces
    assert next(piece for piece in pieces if isinstance(piece, Text)) == Text(f"system\n{text}")
    harmless = template.prompt("a", "b", [("c", "d")]).pieces
    controls = [piece for piece in pieces if isinstance(piece, Control)]
    assert controls == [piece for piece in harmless if isinstance(piece, Control)]


def test_earlier_turns_come_as_the_template_writes_them() -> None:
    template = from_chat_template(CHATML, Names())
    texts = [p.text for p in template.prompt("c", None, [("a", "b")]).pieces if isinstance(p, Text)]
    assert texts == ["user\na", "\n", "assistant\nb", "\n", "user\nc", "\n", "assistant\n"]


def test_the_end_of_an_answer_is_what_the_template_writes() -> None:
    template = from_chat_template(CHATML, Names())
    assert template.answer("{}") == (Text("{}"), Control("<|im_end|>"))
    assert template.stop_ids(Names()) == {1, 3}
    assert from_chat_template(STRICT, Names()).answer("x") == (Text("x"), Control("<end>"))


def test_a_refused_system_text_goes_before_the_question_and_trimming_is_kept() -> None:
    template = from_chat_template(STRICT, Names())
    assert template.prompt("  hi \n", " S ").pieces == (
        Control("<s>"),
        Control("<start>"),
        Text("user\nS \n\n  hi"),
        Control("<end>"),
        Text("\n"),
        Control("<start>"),
        Text("model\n"),
    )


def test_a_system_text_that_would_be_lost_goes_before_the_question() -> None:
    template = from_chat_template(DEAF, Names())
    assert template.prompt("Q", "S", [("q", "a")]).pieces == (
        Text("[user] S\n\nq [assistant] a [user] Q "),
    )


def test_a_template_may_put_the_system_text_where_it_likes() -> None:
    template = from_chat_template(MIXED, Names())
    assert template.prompt("Q", "S", [("q", "a")]).pieces == (
        Control("[INST]"),
        Text(" q"),
        Control("[/INST]"),
        Text("a"),
        Control("</s>"),
        Control("[INST]"),
        Text(" S\n\nQ"),
        Control("[/INST]"),
    )


def test_without_a_chat_template_the_way_out_is_named() -> None:
    with pytest.raises(ModelError, match="no chat template") as caught:
        AUTO.bind(Names())
    assert "--template NAME" in caught.value.hint


@pytest.mark.parametrize(
    "source",
    [
        "{% for %}",
        "{{ raise_exception('never') }}",
        "nothing of the messages",
        "{{ messages[0].content.__class__.__mro__ }}",
        "{% for i in range(10 ** 9) %}x{% endfor %}",
        "{{ messages.append(1) }}{{ messages[0].content }}",
    ],
)
def test_a_template_that_does_not_work_is_an_error_of_the_model(source: str) -> None:
    with pytest.raises(ModelError, match="chat template cannot be used"):
        from_chat_template(source, Names())


def test_a_bound_template_remembers_its_source() -> None:
    tokenizer = Names()
    tokenizer.chat_template = CHATML
    bound = AUTO.bind(tokenizer)
    assert bound.bind(tokenizer) is bound
    assert bound.hash() == from_chat_template(CHATML, Names()).hash()
    assert bound.hash() != from_chat_template(STRICT, Names()).hash()
    # Other words in the vocabulary do not make another template.
    tokenizer.names = (*Names.names, "<extra>")
    assert from_chat_template(CHATML, tokenizer).hash() == bound.hash()


def test_what_templates_are_written_for_is_there() -> None:
    assert render("{{ {'é': '<a>'} | tojson }}") == '{"é": "<a>"}'
    assert (
        render("{% for i in [1, 2] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}")
        == "1"
    )
    assert render("x{% generation %}{{ a }}{% endgeneration %}", a=1) == "x1"
    # Prompts are the same on every day.
    assert render("{{ strftime_now('%d %b %Y') }}") == "26 Jul 2024"
    with pytest.raises(JinjaError, match="no"):
        render("{{ raise_exception('no') }}")
