"""The templates that come with the tool, one row each.

Parts, separators and default system texts are those with which the published IEPile adapters were
trained, to the space. Order within a row: question, prefix, separator, system, stop words, flags,
and patterns of the model names that the row was made for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from iepile_cli.templates.chat import AUTO
from iepile_cli.templates.prompt import Control as Token
from iepile_cli.templates.template import Parts, Template

if TYPE_CHECKING:
    from iepile_cli.registry import Registry

_SYSTEM: Parts = ("{{system}}",)
_CURIOUS_USER = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_RESPECTFUL = (
    "Always answer as helpfully as possible, while being safe.{gap}Your answers should not include "
    "any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. Please ensure "
    "that your responses are socially unbiased and positive in nature.\n\nIf a question does not "
    "make any sense, or is not factually coherent, explain why instead of answering something not "
    "correct. If you don't know the answer to a question, please don't share false information."
)
_BILINGUAL = "You are a helpful assistant. 你是一个乐于助人的助手。"


def _llama2(name: str, system: str, models: tuple[str, ...], summary: str) -> Template:
    return Template(
        name,
        question=("[INST] {{query}} [/INST]",),
        prefix=("<<SYS>>\n{{system}}\n<</SYS>>\n\n",),
        system=system,
        system_in_query=True,
        models=models,
        summary=summary,
    )


def _llama3(name: str, system: str, models: tuple[str, ...], summary: str) -> Template:
    start, end, over = (
        Token("<|start_header_id|>"),
        Token("<|end_header_id|>"),
        Token("<|eot_id|>"),
    )
    return Template(
        name,
        question=(start, "user", end, "\n\n{{query}}", over, start, "assistant", end, "\n\n"),
        prefix=(start, "system", end, "\n\n{{system}}", over),
        system=system,
        stop=("<|eot_id|>",),
        replace_eos=True,
        models=models,
        summary=summary,
    )


TEMPLATES: tuple[Template, ...] = (
    Template(
        "alpaca",
        question=("### Instruction:\n{{query}}\n\n### Response:\n",),
        prefix=_SYSTEM,
        separator=("\n\n",),
        system="Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.",
        models=(r"alpaca", r"llama-?3-8b-iepile"),
        summary="Alpaca; the form of llama3-8b-iepile-lora",
    ),
    Template(
        "aquila",
        question=("Human: {{query}}###Assistant:",),
        prefix=_SYSTEM,
        separator=("###",),
        system="A chat between a curious human and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the human's questions.",
        stop=("</s>",),
        efficient_eos=True,
        models=(r"aquilachat",),
        summary="AquilaChat",
    ),
    Template(
        "baichuan",
        question=(Token("<reserved_102>"), "{{query}}", Token("<reserved_103>")),
        prefix=_SYSTEM,
        efficient_eos=True,
        models=(r"baichuan-",),
        summary="Baichuan",
    ),
    Template(
        "baichuan2",
        question=(Token("<reserved_106>"), "{{query}}", Token("<reserved_107>")),
        prefix=_SYSTEM,
        efficient_eos=True,
        models=(r"baichuan2-",),
        summary="Baichuan2; the form of baichuan2-13b-iepile-lora",
    ),
    Template(
        "belle",
        question=("Human: {{query}}\n\nBelle: ",),
        prefix=_SYSTEM,
        separator=("\n\n",),
        models=(r"belle",),
        summary="BELLE",
    ),
    Template(
        "bluelm",
        question=(Token("[|Human|]:"), "{{query}}", Token("[|AI|]:")),
        prefix=_SYSTEM,
        models=(r"bluelm",),
        summary="BlueLM",
    ),
    Template(
        "chatglm2",
        question=("[Round {{idx}}]\n\n问：{{query}}\n\n答：",),
        prefix=(Token("[gMASK]"), Token("sop"), "{{system}}"),
        separator=("\n\n",),
        efficient_eos=True,
        models=(r"chatglm2",),
        summary="ChatGLM2",
    ),
    Template(
        "chatglm3",
        question=(Token("<|user|>"), "\n", "{{query}}", Token("<|assistant|>")),
        prefix=(Token("[gMASK]"), Token("sop"), Token("<|system|>"), "\n", "{{system}}"),
        system="You are ChatGLM3, a large language model trained by Zhipu.AI. "
        "Follow the user's instructions carefully. Respond using markdown.",
        stop=("<|user|>", "<|observation|>"),
        efficient_eos=True,
        models=(r"chatglm3",),
        summary="ChatGLM3",
    ),
    Template(
        "deepseek",
        question=("### Instruction:\n{{query}}\n\n### Response:\n",),
        prefix=_SYSTEM,
        separator=("\n", Token("<|EOT|>"), "\n\n"),
        system="You are an AI programming assistant, utilizing the Deepseek Coder model, developed "
        "by Deepseek Company, and you only answer questions related to computer science. For "
        "politically sensitive questions, security and privacy issues, and other non-computer "
        "science questions, you will refuse to answer.",
        stop=("<|EOT|>",),
        efficient_eos=True,
        models=(r"deepseek-coder-.*instruct",),
        summary="DeepSeek Coder Instruct",
    ),
    Template(
        "default",
        question=("Human: {{query}}\nAssistant:",),
        prefix=_SYSTEM,
        separator=("\n",),
        system=_CURIOUS_USER,
        summary="a plain dialogue of Human and Assistant",
    ),
    Template(
        "falcon",
        question=("User: {{query}}\nFalcon:",),
        prefix=_SYSTEM,
        separator=("\n",),
        efficient_eos=True,
        models=(r"falcon-",),
        summary="Falcon",
    ),
    Template(
        "intern",
        question=("<|User|>:{{query}}", Token("<eoh>"), "\n<|Bot|>:"),
        prefix=_SYSTEM,
        separator=(Token("<eoa>"), "\n"),
        stop=("<eoa>",),
        efficient_eos=True,
        models=(r"internlm-",),
        summary="InternLM",
    ),
    _llama2(
        "llama2",
        "You are a helpful, respectful and honest assistant. " + _RESPECTFUL.format(gap=" "),
        (r"llama-?2-",),
        "Llama 2 Chat; the form of llama2-13b-iepile-lora",
    ),
    _llama2(
        "llama2_zh",
        _BILINGUAL,
        (r"chinese-?(llama|alpaca)-?2-", r"oneke"),
        "Chinese-LLaMA-2; the form of OneKE",
    ),
    _llama3(
        "llama3",
        "You are a helpful assistant.",
        (r"(meta-)?llama-?3-(?!8b-iepile)",),
        "Llama 3 Instruct",
    ),
    _llama3(
        "llama3_zh",
        _BILINGUAL,
        (r"llama-?3-chinese", r"chinese-?llama-?3"),
        "Llama 3 tuned for Chinese",
    ),
    Template(
        "mistral",
        question=("[INST] {{query}} [/INST]",),
        prefix=_SYSTEM,
        separator=(" ",),
        models=(r"mistral-7b(-chat|-v0\.1|-instruct-v0\.[12])?($|[-.](?!(chat|v|instruct)))",),
        summary="Mistral 7B Instruct, to version 0.2",
    ),
    Template(
        "openba",
        question=(Token("<S>"), "{{query}}", Token("<extra_id_0>")),
        prefix=_SYSTEM,
        models=(r"openba",),
        summary="OpenBA",
    ),
    Template(
        "openchat",
        question=(
            "GPT4 Correct User: {{query}}",
            Token("<|end_of_turn|>"),
            "GPT4 Correct Assistant:",
        ),
        prefix=_SYSTEM,
        separator=(Token("<|end_of_turn|>"),),
        stop=("<|end_of_turn|>",),
        efficient_eos=True,
        models=(r"openchat",),
        summary="OpenChat 3.5",
    ),
    Template(
        "qwen",
        question=(
            Token("<|im_start|>"),
            "user\n{{query}}",
            Token("<|im_end|>"),
            "\n",
            Token("<|im_start|>"),
            "assistant\n",
        ),
        prefix=(Token("<|im_start|>"), "system\n{{system}}"),
        separator=(Token("<|im_end|>"), "\n"),
        system="You are a helpful assistant.",
        stop=("<|im_end|>",),
        efficient_eos=True,
        replace_eos=True,
        models=(r"qwen(1\.5|2|2\.5)?-",),
        summary="Qwen to Qwen2.5 and other ChatML models; the form of qwen1.5-14b-iepile-lora",
    ),
    Template(
        "qwen3",
        # As the model's own template writes it with enable_thinking=False.
        question=(
            Token("<|im_start|>"),
            "user\n{{query}}",
            Token("<|im_end|>"),
            "\n",
            Token("<|im_start|>"),
            "assistant\n",
            Token("<think>", or_text=True),
            "\n\n",
            Token("</think>", or_text=True),
            "\n\n",
        ),
        prefix=(Token("<|im_start|>"), "system\n{{system}}"),
        optional_system=True,
        separator=(Token("<|im_end|>"), "\n"),
        stop=("<|im_end|>",),
        efficient_eos=True,
        replace_eos=True,
        models=(r"qwen3-[\d.]+b($|-gguf|-(iq|q|f|bf)\d)",),
        summary="Qwen3, which answers without thinking",
    ),
    Template(
        "starchat",
        question=(
            Token("<|user|>"),
            "\n{{query}}",
            Token("<|end|>"),
            "\n",
            Token("<|assistant|>"),
        ),
        prefix=(Token("<|system|>"), "\n{{system}}"),
        separator=(Token("<|end|>"), "\n"),
        stop=("<|end|>",),
        efficient_eos=True,
        models=(r"starchat",),
        summary="StarChat",
    ),
    Template(
        "vanilla",
        question=("{{query}}",),
        keeps_history=False,
        summary="the question and nothing else",
    ),
    Template(
        "vicuna",
        question=("USER: {{query}} ASSISTANT:",),
        prefix=_SYSTEM,
        system=_CURIOUS_USER,
        models=(r"vicuna",),
        summary="Vicuna",
    ),
    Template(
        "xverse",
        question=("Human: {{query}}\n\nAssistant: ",),
        prefix=_SYSTEM,
        models=(r"xverse",),
        summary="XVERSE",
    ),
    Template(
        "yayi",
        question=(Token("<|Human|>"), ":\n{{query}}\n\n", Token("<|YaYi|>"), ":"),
        prefix=(Token("<|System|>"), ":\n{{system}}"),
        separator=("\n\n",),
        system="You are a helpful, respectful and honest assistant named YaYi developed by Beijing "
        "Wenge Technology Co.,Ltd. " + _RESPECTFUL.format(gap="  "),
        stop=("<|End|>",),
        models=(r"yayi",),
        summary="YaYi",
    ),
    Template(
        # Zephyr's published tokenizer has no role tokens: it reads them as text.
        "zephyr",
        question=(
            Token("<|user|>", or_text=True),
            "\n{{query}}",
            Token("</s>"),
            Token("<|assistant|>", or_text=True),
        ),
        prefix=(Token("<|system|>", or_text=True), "\n{{system}}", Token("</s>")),
        system="You are a friendly chatbot who always responds in the style of a pirate",
        models=(r"zephyr",),
        summary="Zephyr",
    ),
    Template(
        "ziya",
        question=(Token("<human>"), ":{{query}}\n", Token("<bot>"), ":"),
        prefix=_SYSTEM,
        separator=("\n",),
        models=(r"ziya",),
        summary="Ziya",
    ),
)


def register(registry: Registry) -> None:
    """Register the built-in templates."""
    for template in (AUTO, *TEMPLATES):
        registry.add("template", template.name, template, summary=template.summary)
