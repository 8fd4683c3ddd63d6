"""GGUF files as they are on disk: keys, weights in 32 bits, and the factors of a LoRA adapter.

The header is read without making Python objects of a vocabulary, which takes the ``gguf``
package's own reader two seconds.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_cli.errors import ModelError
from iepile_cli.models.adapter_settings import GGUF_ADAPTER

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Weights = NDArray[np.float32]
    Factors = dict[str, tuple[Weights, Weights]]

# Without a fast kernel for matrices on the processors that llama.cpp knows (ggml's repacking and
# its block multiplication leave these out).
SLOW_FORMATS = frozenset({"Q4_1", "Q5_1", "Q3_K", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S"})

MAGIC = b"GGUF"
STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q"}
_SCALARS[12] = "d"
_ALIGNMENT = 32
_SAMPLES, _SAMPLE = 64, 1 << 16
_FACTORS = (".lora_a", ".lora_b")
# What reading a header raises that is none, or damaged.
_BROKEN = (
    OSError,
    ValueError,
    KeyError,
    IndexError,
    ArithmeticError,
    RecursionError,
    struct.error,
)


@dataclass(frozen=True)
class Tensor:
    """A weight in a file: ``shape`` as NumPy has it (rows first), ``offset`` from the data on."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int


@dataclass(frozen=True)
class Key:
    """A key of the header: its value's type and where the value's bytes are in the file."""

    type: int
    start: int
    end: int


class GgufFile:
    """An open GGUF file, mapped into memory; raises ``ModelError`` for what is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self.bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._read_header()
        except _BROKEN as error:
            raise ModelError(f"{path}: not a GGUF file: {error}") from None

    def __enter__(self) -> GgufFile:
        return self

    def __exit__(self, *_: object) -> None:
        # Arrays over the mapping may still be alive; it goes with the last of them.
        del self.bytes

    def value(self, key: str, default: Any = None) -> Any:
        """A number or string of the header."""
        found = self.keys.get(key)
        if found is None or found.type == _ARRAY:
            return default
        if found.type == STRING:
            return self.bytes[found.start + 8 : found.end].decode("utf-8", "replace")
        return struct.unpack_from("<" + _SCALARS[found.type], self.bytes, found.start)[0]

    def context_length(self) -> int:
        """The longest sequence that the model was trained with, in tokens; 4096 if it is silent."""
        found = self.value(f"{self.value('general.architecture')}.context_length")
        return found if isinstance(found, int) else 4096

    def raw(self, tensor: Tensor) -> NDArray[np.uint8]:
        """The bytes of a weight; raises ``ModelError`` for one that the file does not hold."""
        with self._naming(tensor):
            return self._raw(tensor)

    def weights(self, tensor: Tensor) -> Weights:
        """A weight in 32 bits; raises ``ModelError`` as ``raw`` does."""
        import gguf
        import numpy as np

        with self._naming(tensor):
            raw, kind = self._raw(tensor), gguf.GGMLQuantizationType(tensor.type)
            if kind.name in ("F32", "F16"):
                plain = raw.view(np.float32 if kind.name == "F32" else np.float16)
                return plain.reshape(tensor.shape).astype(np.float32)
            rows = raw.reshape(-1, stored_size(tensor.type, tensor.shape[-1:]))
            whole: Weights = gguf.dequantize(rows, kind)
            return whole.reshape(tensor.shape)

    def _raw(self, tensor: Tensor) -> NDArray[np.uint8]:
        import numpy as np

        start, size = self.data + tensor.offset, stored_size(tensor.type, tensor.shape)
        return np.frombuffer(self.bytes, np.uint8, size, start)

    @contextmanager
    def _naming(self, tensor: Tensor) -> Iterator[None]:
        try:
            yield
        except (*_BROKEN, NotImplementedError) as error:
            raise ModelError(f"{self.path}: its weight {tensor.name} is broken: {error}") from None

    def formats(self) -> set[str]:
        """The formats of its matrices."""
        import gguf

        types = {tensor.type for tensor in self.tensors if len(tensor.shape) > 1}
        return {gguf.GGMLQuantizationType(one).name for one in types}

    def _read_header(self) -> None:
        magic, self.version, tensors, keys = struct.unpack_from("<4sIQQ", self.bytes)
        if magic != MAGIC or self.version not in (2, 3):
            raise ValueError("it does not begin as one")
        at = 24
        self.keys: dict[str, Key] = {}
        for _ in range(keys):
            name, at = self._string(at)
            (kind,) = struct.unpack_from("<I", self.bytes, at)
            end = self._skip(kind, at + 4)
            self.keys[name] = Key(kind, at + 4, end)
            at = end
        self.tensors = []
        for _ in range(tensors):
            name, at = self._string(at)
            (count,) = struct.unpack_from("<I", self.bytes, at)
            *shape, kind, offset = struct.unpack_from(f"<{count}QIQ", self.bytes, at + 4)
            at += 4 + 8 * count + 12
            if not all(0 < size <= 8 * len(self.bytes) for size in shape):
                raise ValueError(f"its weight {name} has an impossible shape")
            self.tensors.append(Tensor(name, tuple(reversed(shape)), kind, offset))
        self.alignment = int(self.value("general.alignment", _ALIGNMENT))
        self.data = padded(at, self.alignment)

    def _string(self, at: int) -> tuple[str, int]:
        (size,) = struct.unpack_from("<Q", self.bytes, at)
        end = self._inside(at + 8 + size)
        return self.bytes[at + 8 : end].decode("utf-8", "replace"), end

    def _inside(self, at: int) -> int:
        """The place, if it is in the file; raises ``ValueError``."""
        if at > len(self.bytes):
            raise ValueError("its header goes on after the end of the file")
        return at

    def _skip(self, kind: int, at: int) -> int:
        """Where a value ends."""
        if kind == STRING:
            (size,) = struct.unpack_from("<Q", self.bytes, at)
            return self._inside(at + 8 + int(size))
        if kind != _ARRAY:
            return self._inside(at + struct.calcsize(_SCALARS[kind]))
        inner, count = struct.unpack_from("<IQ", self.bytes, at)
        at += 12
        if inner in (STRING, _ARRAY):
            for _ in range(count):
                at = self._skip(inner, at)
            return at
        return self._inside(at + int(count) * struct.calcsize(_SCALARS[inner]))


def stored_size(type_: int, shape: Sequence[int]) -> int:
    """The bytes that a weight of a shape takes in a format (a ggml type's number)."""
    import gguf

    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(type_)]
    return int(math.prod(shape) // block * size)


def read_adapter(path: Path) -> tuple[Factors, float]:
    """A LoRA adapter: its two factors (rank x in, out x rank) by weight, and alpha.

    Raises ``ModelError`` for a file that is no LoRA adapter.
    """
    with GgufFile(path) as file:
        alpha = file.value("adapter.lora.alpha")
        tensors = {tensor.name: file.weights(tensor) for tensor in file.tensors}
    first, second = _FACTORS
    stems = {name.removesuffix(end) for name in tensors for end in _FACTORS if name.endswith(end)}
    if alpha is None or not stems or len(tensors) != 2 * len(stems):
        raise ModelError(f"{path}: not a LoRA adapter in GGUF")
    try:
        pairs = {stem: (tensors[stem + first], tensors[stem + second]) for stem in sorted(stems)}
    except KeyError as error:
        raise ModelError(f"{path}: not a LoRA adapter in GGUF: {error} is missing") from None
    return pairs, float(alpha)


def adapter_file(adapter: Path) -> Path:
    """The GGUF file of an adapter: itself, or the one that training left in its folder.

    Raises ``ModelError`` for a folder without one.
    """
    if not adapter.is_dir():
        return adapter
    file = adapter / GGUF_ADAPTER
    if not file.is_file():
        raise ModelError(
            f"{adapter}: llama.cpp needs the adapter as GGUF",
            hint=f"iepile export --adapter {adapter} --to gguf-adapter -o {file}",
        )
    return file


def padded(size: int, alignment: int) -> int:
    """A size rounded up to the next multiple of an alignment."""
    return (size + alignment - 1) // alignment * alignment


def fingerprint(path: Path) -> str:
    """A hash of a file's size and of samples all over it: weights that change, change anywhere."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest.update(str(size).encode())
        for number in range(_SAMPLES):
            file.seek(max(0, size - _SAMPLE) * number // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE))
    return digest.hexdigest()[:16]
