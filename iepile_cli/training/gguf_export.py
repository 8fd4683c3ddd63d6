"""What was trained as GGUF files for llama.cpp: an adapter, or a whole model with its tokenizer.

How llama.cpp is to cut text before merging (its ``pre`` names, its scores) is not recorded by
transformers. It is found by trial: the first way that gives the same tokens as the model's own
tokenizer on texts that tell them apart. A tokenizer that none of them matches is refused.
"""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_cli.backends.gguf_layout import Layout, gguf_library, stored
from iepile_cli.backends.tokenizers import hf_tokenizer
from iepile_cli.backends.transformers_loading import adapter_config
from iepile_cli.errors import ModelError, UsageError
from iepile_cli.models.adapter_settings import GGUF_KEY, AdapterSettings
from iepile_cli.training.model import Base

if TYPE_CHECKING:
    from iepile_cli.backends.gguf_layout import Weights

_FACTOR = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight")
_DIRECT = ("f32", "f16", "q8_0")
# Taken anew for each file, or about the tensors of the file they come from.
_NOT_COPIED = (
    "GGUF.",
    "general.architecture",
    "general.file_type",
    "general.quantization",
    "iepile.",
    "split.",
)
_PRE = ("default", "gpt-2", "smollm", "llama-bpe", "qwen2", "deepseek-llm", "tekken", "falcon")
_PROBES = (
    "He's 12345 years old; they'LL see 3.14159!\n\n  Two  spaces\tand tabs\r\n",
    "北京大学在1898年成立，位于海淀区。Ünïcödé – naïve café… 😀👍🏽",
    '{"person": ["Robert Allenby"], "date": ["2021-03-04"], "x_y": []}',
    "  leading   runs \n \n\n of WHITE_space and CamelCase50items ... ---",
)
# Beside these, texts of the tokenizer's own longest tokens, in which merges compete.
_OWN_PROBES, _TOKENS_IN_PROBE = 16, 8


# --------------------------------------------------------------------------------------- adapters


def adapter_obstacle(base: Base, config: dict[str, Any]) -> str:
    """Why an adapter of these PEFT settings cannot be a GGUF file over a base; empty if it can."""
    try:
        base.layout()
    except ModelError as error:
        return error.message
    if config.get("use_dora"):
        return "DoRA has no form in GGUF"
    if config.get("modules_to_save"):
        return "modules trained whole (modules_to_save) have no place in a GGUF adapter"
    return ""


def write_gguf_adapter(
    base: Base, adapter: Path, output: Path, settings: AdapterSettings | None = None
) -> None:
    """Write a PEFT LoRA folder as a GGUF adapter (16-bit factors) for the base model.

    Raises ``ModelError`` for an adapter that holds more than LoRA factors.
    """
    import numpy as np

    gguf = gguf_library()
    config = adapter_config(adapter)
    if obstacle := adapter_obstacle(base, config):
        raise ModelError(
            f"{adapter}: cannot be a GGUF adapter: {obstacle}",
            hint="merge it into the model: --to gguf",
        )
    layout = base.layout()
    writer = gguf.GGUFWriter(output, layout.architecture)
    if settings:
        writer.add_string(GGUF_KEY, settings.as_json())
    writer.add_string(gguf.Keys.General.TYPE, gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(config["lora_alpha"]))
    writer.add_string(gguf.Keys.General.NAME, adapter.name)
    for name, (first, second) in sorted(_factors(adapter).items()):
        second = second * _rescaled(config, name, first.shape[0])
        for place, rows in layout.placed(name, second):
            for end, half in (("lora_a", first), ("lora_b", rows)):
                small = np.ascontiguousarray(half, dtype=np.float16)
                writer.add_tensor(f"{place}.weight.{end}", small)
    _close(writer)


def _close(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _factors(adapter: Path) -> dict[str, tuple[Weights, Weights]]:
    """The two factors of each weight: name to (rank x in, out x rank)."""
    path = adapter / "adapter_model.safetensors"
    if not path.is_file():
        raise ModelError(f"{adapter}: no adapter_model.safetensors in it")
    halves: dict[str, dict[str, Weights]] = {}
    for key, rows in stored(path):
        match = _FACTOR.fullmatch(key)
        if not match:
            raise ModelError(
                f"{adapter}: {key} is not a LoRA factor, and GGUF adapters hold nothing else",
                hint="merge it into the model: --to gguf",
            )
        halves.setdefault(match[1], {})[match[2]] = rows
    return {name: (pair["A"], pair["B"]) for name, pair in halves.items()}


def _rescaled(config: dict[str, Any], name: str, rank: int) -> float:
    """What the second factor is multiplied by: llama.cpp knows one alpha, divided by the rank."""
    alpha = config["lora_alpha"]
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?{pattern}", name):
            alpha = value
            break
    wanted = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return float(wanted / (config["lora_alpha"] / rank))


# ------------------------------------------------------------------------------------ whole models


def written_directly(kind: str) -> bool:
    """Whether a type is written without llama.cpp's quantisation.

    Raises ``UsageError`` for a type that llama.cpp does not know.
    """
    if kind.lower() in _DIRECT:
        return True
    _file_type(kind)
    return False


def _file_type(kind: str) -> int:
    from iepile_cli.backends.llamacpp import library

    lib = library()
    found = getattr(lib, f"LLAMA_FTYPE_MOSTLY_{kind.upper()}", None)
    if found is None:
        prefix = "LLAMA_FTYPE_MOSTLY_"
        names = sorted(name.removeprefix(prefix).lower() for name in dir(lib) if prefix in name)
        raise UsageError(
            f"--quantise {kind} is not a type of llama.cpp",
            hint=f"f32, {', '.join(names)}",
        )
    return int(found)


def quantise(source: Path, output: Path, kind: str) -> None:
    """Quantise a GGUF file by llama.cpp itself; raises ``ModelError`` when it cannot."""
    from iepile_cli.backends.llamacpp import library
    from iepile_cli.parallel import processors

    lib = library()
    params = lib.llama_model_quantize_default_params()
    params.ftype = _file_type(kind)
    params.nthread = processors()
    # What no adapter changed of a GGUF base is still in the base's own format.
    params.allow_requantize = True
    if lib.llama_model_quantize(os.fsencode(source), os.fsencode(output), params):
        raise ModelError(
            f"llama.cpp cannot quantise this model to {kind}",
            hint="its rows may be too short for that type: try q8_0 or q4_0",
        )


def write_gguf_model(
    base: Base, folder: Path, output: Path, kind: str, settings: AdapterSettings
) -> None:
    """Write the safetensors of a folder as one GGUF file of type f32, f16 or q8_0.

    Settings and tokenizer are those of the base model's own GGUF file where it came from one.
    """
    gguf = gguf_library()
    layout = base.layout()
    writer = gguf.GGUFWriter(output, layout.architecture)
    writer.add_string(GGUF_KEY, settings.as_json())
    if base.is_gguf:
        _copy_settings(writer, base.source)
    else:
        _write_settings(writer, base, folder, layout)
    file_type = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0"}[kind.lower()]
    writer.add_file_type(gguf.LlamaFileType[file_type])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for name, rows in stored(folder):
        for place, placed in layout.placed(
            name.removesuffix(".weight").removesuffix(".bias"), rows
        ):
            suffix = ".bias" if name.endswith(".bias") else ".weight"
            _add_rows(writer, place + suffix, placed, kind.lower())
    _close(writer)


def _add_rows(writer: Any, name: str, rows: Weights, kind: str) -> None:
    import gguf
    import numpy as np

    # Norms and biases stay in 32 bits, as llama.cpp's own files have them.
    if rows.ndim == 1 or kind == "f32":
        writer.add_tensor(name, np.ascontiguousarray(rows, dtype=np.float32))
    elif kind == "q8_0" and rows.shape[-1] % 32 == 0:
        packed = gguf.quants.quantize(np.ascontiguousarray(rows), gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    else:
        writer.add_tensor(name, np.ascontiguousarray(rows, dtype=np.float16))


def _copy_settings(writer: Any, source: Path) -> None:
    import gguf

    for key, field in gguf.GGUFReader(source).fields.items():
        if key.startswith(_NOT_COPIED):
            continue
        kinds = field.types
        inner = kinds[-1] if kinds[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), kinds[0], sub_type=inner)


def _write_settings(writer: Any, base: Base, folder: Path, layout: Layout) -> None:
    """Add a model's settings and tokenizer; raises ``ModelError`` for what GGUF cannot hold."""
    import transformers

    config: Any = transformers.AutoConfig.from_pretrained(
        folder, trust_remote_code=base.remote_code
    )
    width = int(getattr(config, "head_dim", None) or config.hidden_size // layout.heads)
    rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    writer.add_name(Path(base.name).name)
    writer.add_vocab_size(int(config.vocab_size))
    writer.add_block_count(layout.layers)
    writer.add_context_length(int(config.max_position_embeddings))
    writer.add_embedding_length(int(config.hidden_size))
    writer.add_feed_forward_length(int(config.intermediate_size))
    writer.add_head_count(layout.heads)
    writer.add_head_count_kv(layout.key_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_layer_norm_rms_eps(float(config.rms_norm_eps))
    theta = rope.get("rope_theta") or getattr(config, "rope_theta", None) or 10_000.0
    writer.add_rope_freq_base(float(theta))
    if rope.get("rope_type", "default") != "default":
        raise ModelError(
            f"{base.name}: its positions are scaled ({rope['rope_type']}), which cannot be written",
            hint="export --to merged and convert with llama.cpp's own script",
        )
    Vocabulary(base, folder, int(config.vocab_size)).write(writer)


# -------------------------------------------------------------------------------------- tokenizer


class Vocabulary:
    """The tokenizer of a base model, padded to ``size`` tokens, and how llama.cpp follows it."""

    def __init__(self, base: Base, folder: Path, size: int) -> None:
        self.name, self.size = base.name, size
        self.tokenizer = hf_tokenizer(base.folder, remote_code=base.remote_code)
        file = base.folder / "tokenizer.json"
        if not file.is_file():
            self.tokenizer.save_pretrained(folder)
            file = folder / "tokenizer.json"
        try:
            model: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["model"]
        except (OSError, ValueError, KeyError):
            raise ModelError(
                f"{base.name}: no tokenizer.json, so no GGUF can be made of it"
            ) from None
        if model.get("type") != "BPE":
            raise ModelError(
                f"{base.name}: a {model.get('type')} tokenizer cannot be written as GGUF"
            )
        self.kind = "llama" if model.get("byte_fallback") else "gpt2"
        self.merges = [
            merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]
        ]

    def write(self, writer: Any) -> None:
        """Add it to a GGUF file; raises ``ModelError`` where llama.cpp cannot follow it."""
        from iepile_cli.backends.tokenizers import LlamaCppTokenizer

        gguf = gguf_library()
        probes = (*_PROBES, *self._own_probes())
        wanted = [self.tokenizer(text, add_special_tokens=False).input_ids for text in probes]
        with tempfile.TemporaryDirectory(prefix="iepile-") as folder:
            for number, way in enumerate(self._ways()):
                path = Path(folder, f"{number}.gguf")
                trial = gguf.GGUFWriter(path, "llama")
                self._write(trial, way)
                _close(trial)
                try:
                    candidate = LlamaCppTokenizer.open(path)
                except ModelError:
                    continue
                if [candidate.text(text) for text in probes] == wanted:
                    self._write(writer, way)
                    return
        raise ModelError(
            f"{self.name}: llama.cpp cuts text in none of its ways as this tokenizer does",
            hint="export --to merged and convert with llama.cpp's own script",
        )

    def _ways(self) -> Iterator[tuple[str, list[float]]]:
        """Names of how to cut text, and scores of the tokens where merges go by them."""
        if self.kind == "gpt2":
            yield from ((pre, []) for pre in _PRE)
            return
        by_rank = [0.0] * self.size
        ranks: dict[str, int] = {}
        for rank, merge in enumerate(self.merges):
            ranks.setdefault(merge.replace(" ", ""), rank)
        for token, number in self.tokenizer.get_vocab().items():
            if number < self.size:
                by_rank[number] = -float(ranks.get(token, len(ranks)))
        yield "default", by_rank
        # Llama's own order: SentencePiece gave its tokens their ids by score.
        yield "default", [float(-number) for number in range(self.size)]

    def _own_probes(self) -> Iterator[str]:
        """Texts of the tokenizer's longest tokens, one after the other without spaces."""
        added = {str(token) for token in self.tokenizer.added_tokens_decoder.values()}
        plain = (
            self.tokenizer.convert_tokens_to_string([token]).strip()
            for token in self.tokenizer.get_vocab()
            if token not in added
        )
        words = sorted({word for word in plain if "\ufffd" not in word}, key=_longest_first)
        for at in range(0, min(len(words), _OWN_PROBES * _TOKENS_IN_PROBE), _TOKENS_IN_PROBE):
            yield "".join(words[at : at + _TOKENS_IN_PROBE])

    def _write(self, writer: Any, way: tuple[str, list[float]]) -> None:
        pre, scores = way
        tokens, kinds = self._tokens()
        writer.add_tokenizer_model(self.kind)
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        if self.kind == "llama":
            writer.add_token_scores(scores)
            adds_space = self.tokenizer.tokenize("a")[:1] != ["a"]
            writer.add_add_space_prefix(adds_space)
        else:
            writer.add_token_merges(self.merges)
        writer.add_token_types(kinds)
        tokenizer = self.tokenizer
        for name in ("bos", "eos", "unk", "pad"):
            number = getattr(tokenizer, f"{name}_token_id")
            if number is not None and number < self.size:
                getattr(writer, f"add_{name}_token_id")(int(number))
        adds_bos = tokenizer.bos_token_id is not None and tokenizer("a").input_ids[:1] == [
            tokenizer.bos_token_id
        ]
        writer.add_add_bos_token(adds_bos)
        if isinstance(tokenizer.chat_template, str):
            writer.add_chat_template(tokenizer.chat_template)

    def _tokens(self) -> tuple[list[str], list[Any]]:
        """The tokens by their ids, and the kind of each."""
        kinds = gguf_library().TokenType
        by_id = {int(i): text for text, i in self.tokenizer.get_vocab().items()}
        added = {int(i): token for i, token in self.tokenizer.added_tokens_decoder.items()}
        special = set(self.tokenizer.all_special_ids)
        tokens, found = [], []
        # A token beyond the model's own rows, which a tokenizer may add, can have no weights.
        for i in range(self.size):
            text = by_id.get(i, f"[PAD{i}]")
            kind = kinds.NORMAL
            if i not in by_id:
                kind = kinds.UNUSED
            elif i in added:
                is_control = added[i].special or i in special
                kind = kinds.CONTROL if is_control else kinds.USER_DEFINED
            elif self.kind == "llama" and len(text) == 6 and text.startswith("<0x"):
                kind = kinds.BYTE
            tokens.append(text)
            found.append(kind)
        return tokens, found


def _longest_first(word: str) -> tuple[int, str]:
    return -len(word.encode()), word
