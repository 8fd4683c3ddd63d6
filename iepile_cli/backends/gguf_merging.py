"""A model and its adapters merged into one GGUF file, in a format that llama.cpp computes fast.

llama.cpp computes with an adapter beside the weights of its base, which costs a tenth to a fifth
of the time, and some formats of weights have no fast kernel. NumPy is enough to merge: a weight is
unpacked, the product of the adapter's factors added in 32 bits, and the sum packed again.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_cli import config, parallel
from iepile_cli.backends.gguf import (
    MAGIC,
    SLOW_FORMATS,
    STRING,
    GgufFile,
    Tensor,
    fingerprint,
    padded,
    read_adapter,
    stored_size,
)
from iepile_cli.errors import DataError, ModelError
from iepile_cli.models.adapter_settings import GGUF_KEY, read_adapter_settings
from iepile_cli.writing import atomic_path

if TYPE_CHECKING:
    from iepile_cli.backends.gguf import Factors
    from iepile_cli.models import Resolved
    from iepile_cli.models.adapter_settings import AdapterSettings

    Changes = Sequence[tuple[Path, Factors, float]]

# What weights can be written in, with the number that a file's header gives for each.
FORMATS = {"q8_0": 7, "q4_0": 2, "f16": 1, "f32": 0}
# The format of the embedded model: of those measured, as good as the parts and the fastest.
FAST_FORMAT = "q8_0"
_FILE_TYPE = "general.file_type"


def has_merged_form(found: Resolved, adapters: Sequence[str] = ()) -> bool:
    """Whether a model is used as one file: the embedded one with no ``adapters`` named for it.

    Its files come with the installation and are the same for everyone.
    """
    return found.entry is not None and found.entry.embedded and not adapters


def merged_file(base: Path, adapters: Sequence[Path]) -> Path:
    """Where the merged file of a model and its adapters is kept, made or not."""
    hashes = "-".join(map(fingerprint, (base, *adapters)))
    return config.cache_folder() / "merged" / f"{base.stem}-{hashes}-{FAST_FORMAT}.gguf"


def merged_form(
    base: Path, adapters: Sequence[Path], on_note: Callable[[str], None] = lambda _: None
) -> Path | None:
    """One file of a small model and its adapters: from the cache, or made now and kept there.

    None where the cache cannot be written; ``on_note`` is told why in one line.
    """
    from filelock import FileLock

    merged = merged_file(base, adapters)
    if merged.is_file():
        return merged
    try:
        merged.parent.mkdir(parents=True, exist_ok=True)
        # Of several processes the first one merges and the others wait.
        with FileLock(merged.with_name(f".{merged.name}.lock")):
            if not merged.is_file():
                merge_adapters(base, adapters, merged, FAST_FORMAT)
        return merged
    except (OSError, DataError) as error:
        reason = error.message if isinstance(error, DataError) else error.strerror or str(error)
        on_note(
            f"the model runs in its slower form: {merged.parent} cannot be written ({reason}); "
            "IEPILE_CACHE names another folder"
        )
        return None


def merge_adapters(
    base: Path,
    adapters: Sequence[Path],
    target: Path,
    weight_format: str = FAST_FORMAT,
    settings: AdapterSettings | None = None,
) -> None:
    """Write a GGUF model with GGUF adapters merged into its weights, atomically.

    ``weight_format`` is one of ``FORMATS``; a matrix whose rows are no multiple of the format's
    block becomes F16, and one that no adapter changes and that has a fast format stays as it is.
    ``settings`` go into the header, by default those of the last adapter. Raises ``ModelError``
    for an adapter that does not fit, ``DataError`` when the file cannot be written.
    """
    with GgufFile(base) as file:
        changes = [(path, *read_adapter(path)) for path in adapters]
        for path, factors, _ in changes:
            _check_fit(path, factors, file)
        planned = [_planned(tensor, file, changes, weight_format) for tensor in file.tensors]
        recorded = settings or read_adapter_settings((base, *adapters)[-1])
        if recorded and adapters:
            recorded = replace(recorded, method="merged")
        text = recorded.as_json() if recorded else ""
        header = _header(file, planned, text, FORMATS[weight_format])
        with atomic_path(target) as partial, partial.open("wb") as out:
            out.write(header)
            for data in _merged(file, planned, changes):
                out.write(data)
                out.write(bytes(-len(data) % file.alignment))


def _check_fit(path: Path, factors: Factors, file: GgufFile) -> None:
    shapes = {tensor.name: tensor.shape for tensor in file.tensors}
    for name, (into, out) in factors.items():
        if shapes.get(name) != (out.shape[0], into.shape[1]) or into.shape[0] != out.shape[1]:
            raise ModelError(f"adapter {path} does not fit this base model: {name}")
        if name == "token_embd.weight":
            raise ModelError(f"adapter {path} changes the embedding, which cannot be merged")


def _planned(tensor: Tensor, file: GgufFile, changes: Changes, weight_format: str) -> Tensor:
    """A weight as it is going to be written; its offset is set later."""
    import gguf

    kinds = gguf.GGMLQuantizationType
    now, wanted = kinds(tensor.type), kinds[weight_format.upper()]
    changed = any(tensor.name in factors for _, factors, _ in changes)
    if len(tensor.shape) != 2 or not (changed or now.name in SLOW_FORMATS):
        return tensor
    if tensor.shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0]:
        wanted = kinds.F16
    return replace(tensor, type=int(wanted))


def _merged(file: GgufFile, planned: Sequence[Tensor], changes: Changes) -> Iterator[Any]:
    """The bytes of each weight, in order, computed a few ahead by threads."""
    import gguf

    def one(pair: tuple[Tensor, Tensor]) -> Any:
        old, new = pair
        found = [
            (into, out, alpha / into.shape[0])
            for _, factors, alpha in changes
            for into, out in [factors.get(old.name, (None, None))]
            if into is not None and out is not None
        ]
        if old.type == new.type and not found:
            return file.raw(old)
        weights = file.weights(old)
        for into, out, scale in found:
            weights += (out * scale) @ into
        packed = gguf.quantize(weights, gguf.GGMLQuantizationType(new.type))
        return memoryview(packed).cast("B")

    with ThreadPoolExecutor(parallel.processors()) as pool:
        # Whole layers at a time: the weights of a large model in 32 bits must not pile up.
        pairs = list(zip(file.tensors, planned, strict=True))
        for start in range(0, len(pairs), 16):
            yield from pool.map(one, pairs[start : start + 16])


def _header(file: GgufFile, planned: Sequence[Tensor], settings: str, file_type: int) -> bytes:
    """The new file's header up to its data: the old keys, the settings, the new formats."""
    keys: dict[str, bytes] = {}
    if settings:
        keys[GGUF_KEY] = struct.pack("<I", STRING) + _packed_string(settings)
    for name, key in file.keys.items():
        if name != GGUF_KEY:
            keys[name] = struct.pack("<I", key.type) + file.bytes[key.start : key.end]
    if _FILE_TYPE in keys:
        keys[_FILE_TYPE] = struct.pack("<II", 4, file_type)
    parts = [struct.pack("<4sIQQ", MAGIC, file.version, len(planned), len(keys))]
    parts += [_packed_string(name) + value for name, value in keys.items()]
    offset = 0
    for tensor in planned:
        sizes = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *reversed(tensor.shape))
        parts.append(_packed_string(tensor.name) + sizes)
        parts.append(struct.pack("<IQ", tensor.type, offset))
        offset = padded(offset + stored_size(tensor.type, tensor.shape), file.alignment)
    joined = b"".join(parts)
    return joined.ljust(padded(len(joined), file.alignment), b"\0")


def _packed_string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw
