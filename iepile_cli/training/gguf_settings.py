"""Settings and tokenizer of a transformers model in the words of GGUF.

How llama.cpp is to cut text before merging (its ``pre`` names) is not recorded by transformers.
It is found by trial: the first that gives the same tokens as the model's own tokenizer on texts
that tell them apart. A tokenizer that none of them matches is refused.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from iepile_cli.backends.gguf_names import Layout
from iepile_cli.errors import ModelError
from iepile_cli.training.base import Base, hf_tokenizer

_PRE = ("default", "gpt-2", "smollm", "llama-bpe", "qwen2", "deepseek-llm", "tekken", "falcon")
_PROBES = (
    "He's 12345 years old; they'LL see 3.14159!\n\n  Two  spaces\tand tabs\r\n",
    "北京大学在1898年成立，位于海淀区。Ünïcödé – naïve café… 😀👍🏽",
    '{"person": ["Robert Allenby"], "date": ["2021-03-04"], "x_y": []}',
    "  leading   runs \n \n\n of WHITE_space and CamelCase50items ... ---",
)


def write_settings(writer: Any, base: Base, folder: Path, layout: Layout) -> None:
    """Add a model's settings and tokenizer to a GGUF file being written.

    Raises ``ModelError`` for a tokenizer that llama.cpp cannot be made to follow.
    """
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
    write_tokenizer(writer, base, folder, int(config.vocab_size))


def write_tokenizer(writer: Any, base: Base, folder: Path, size: int) -> None:
    """Add the tokenizer of a folder, padded to ``size`` tokens."""
    tokenizer = hf_tokenizer(base.folder, base.remote_code)
    file = base.folder / "tokenizer.json"
    if not file.is_file():
        tokenizer.save_pretrained(folder)
        file = folder / "tokenizer.json"
    try:
        model: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["model"]
    except (OSError, ValueError, KeyError):
        raise ModelError(f"{base.name}: no tokenizer.json, so no GGUF can be made of it") from None
    if model.get("type") != "BPE":
        raise ModelError(f"{base.name}: a {model.get('type')} tokenizer cannot be written as GGUF")
    if model.get("byte_fallback"):
        _write_vocabulary(writer, tokenizer, size, "llama", "default")
        return
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    pre = _matching(tokenizer, size, merges, base.name)
    _write_vocabulary(writer, tokenizer, size, "gpt2", pre)
    writer.add_token_merges(merges)


def _write_vocabulary(writer: Any, tokenizer: Any, size: int, kind: str, pre: str) -> None:
    import gguf

    by_id = {int(i): text for text, i in tokenizer.get_vocab().items()}
    added = {int(i): token for i, token in tokenizer.added_tokens_decoder.items()}
    special = set(tokenizer.all_special_ids)
    tokens, kinds = [], []
    for i in range(max(size, len(by_id))):
        text = by_id.get(i, f"[PAD{i}]")
        token_type = gguf.TokenType.NORMAL
        if i not in by_id:
            token_type = gguf.TokenType.UNUSED
        elif i in added:
            is_control = added[i].special or i in special
            token_type = gguf.TokenType.CONTROL if is_control else gguf.TokenType.USER_DEFINED
        elif kind == "llama" and len(text) == 6 and text.startswith("<0x"):
            token_type = gguf.TokenType.BYTE
        tokens.append(text)
        kinds.append(token_type)
    writer.add_tokenizer_model(kind)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    if kind == "llama":
        # Merged in the order of their ids, as SentencePiece's scores have it.
        writer.add_token_scores([float(-i) for i in range(len(tokens))])
    writer.add_token_types(kinds)
    for name in ("bos", "eos", "unk", "pad"):
        number = getattr(tokenizer, f"{name}_token_id")
        if number is not None:
            getattr(writer, f"add_{name}_token_id")(int(number))
    adds_bos = tokenizer.bos_token_id is not None and tokenizer("a").input_ids[:1] == [
        tokenizer.bos_token_id
    ]
    writer.add_add_bos_token(adds_bos)
    template = tokenizer.chat_template
    if isinstance(template, str):
        writer.add_chat_template(template)


def _matching(tokenizer: Any, size: int, merges: list[str], name: str) -> str:
    """The name under which llama.cpp cuts text as the tokenizer does."""
    import gguf

    from iepile_cli.backends.tokenizers import LlamaCppTokenizer

    wanted = [tokenizer(text, add_special_tokens=False).input_ids for text in _PROBES]
    with tempfile.TemporaryDirectory(prefix="iepile-") as folder:
        for pre in _PRE:
            path = Path(folder, f"{pre}.gguf")
            writer = gguf.GGUFWriter(path, "llama")
            _write_vocabulary(writer, tokenizer, size, "gpt2", pre)
            writer.add_token_merges(merges)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            try:
                candidate = LlamaCppTokenizer.open(path)
            except ModelError:
                continue
            if [candidate.text(text) for text in _PROBES] == wanted:
                return pre
    raise ModelError(
        f"{name}: llama.cpp cuts text in none of its ways as this tokenizer does",
        hint="export --to merged and convert with llama.cpp's own script",
    )
