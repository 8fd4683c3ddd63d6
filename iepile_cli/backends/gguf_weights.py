"""The weights of a GGUF file as a folder that transformers reads, made once and then cached."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from iepile_cli.backends.gguf import fingerprint
from iepile_cli.config import cache_folder
from iepile_cli.errors import ModelError


def unpacked(gguf: Path, *, on_note: Callable[[str], None] = lambda _: None) -> Path:
    """The folder of a GGUF file's weights (16 bits) and tokenizer, from the cache or made now."""
    from filelock import FileLock

    folder = cache_folder() / "unpacked" / f"{gguf.stem}-{fingerprint(gguf)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Of several processes of a run the first one unpacks and the others wait.
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if (folder / "config.json").is_file():
            return folder
        on_note(f"unpacking {gguf.name} into {folder} (once)")
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
        try:
            _unpack(gguf, partial)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def _unpack(gguf: Path, folder: Path) -> None:
    import torch
    import transformers

    place = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    extra = {}
    if hasattr(transformers, "GgufConfig"):
        extra["quantization_config"] = transformers.GgufConfig(dequantize=True)
    try:
        # The bar of this conversion is drawn whatever transformers is told.
        with contextlib.redirect_stderr(io.StringIO()):
            tokenizer = transformers.AutoTokenizer.from_pretrained(**place)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                **place, dtype=torch.float32, **extra
            )
    except (ValueError, KeyError, NotImplementedError, ImportError, RuntimeError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{gguf}: transformers cannot unpack it: {said}",
            hint="use the model's safetensors",
        ) from None
    largest = max(float(weight.detach().abs().max()) for weight in model.parameters())
    # A block format's values fit in fp16 and keep more digits there than in bf16.
    model.to(torch.float16 if largest < 60_000 else torch.bfloat16)
    if getattr(model.config, "quantization_config", None) is not None:
        del model.config.quantization_config
    with contextlib.redirect_stderr(io.StringIO()):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
