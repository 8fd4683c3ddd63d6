"""A model's tokenizer in a GGUF file, written so that llama.cpp cuts text as it does.

How llama.cpp is to cut text before merging (its ``pre`` names, its scores) is not recorded by
transformers. It is found by trial: the first way that gives the same tokens as the model's own
tokenizer on texts that tell them apart. A tokenizer that none of them matches is refused.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iepile_cli.backends.gguf_layout import gguf_library
from iepile_cli.backends.tokenizers import hf_tokenizer
from iepile_cli.errors import ModelError
from iepile_cli.training.model import Base

_PRE = ("default", "gpt-2", "smollm", "llama-bpe", "qwen2", "deepseek-llm", "tekken", "falcon")
_PROBES = (
    "He's 12345 years old; they'LL see 3.14159!\n\n  Two  spaces\tand tabs\r\n",
    "北京大学在1898年成立，位于海淀区。Ünïcödé – naïve café… 😀👍🏽",
    '{"person": ["Robert Allenby"], "date": ["2021-03-04"], "x_y": []}',
    "  leading   runs \n \n\n of WHITE_space and CamelCase50items ... ---",
)
# Beside these, texts of the tokenizer's own longest tokens, in which merges compete.
_OWN_PROBES, _TOKENS_IN_PROBE = 16, 8


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
                finish(trial)
                try:
                    candidate = LlamaCppTokenizer.open(path)
                except ModelError:
                    continue
                if [candidate.whole(text) for text in probes] == wanted:
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


def finish(writer: Any) -> None:
    """Write all that a GGUF writer was given, and close its file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
