"""Batches: examples laid end to end in one row, each attending to itself alone.

Nothing is padded. Positions start anew with each example, and attention is computed example by
example, so that the result is the same as for each example in a batch of its own. Logits are
computed only where an answer's token is to be said. A model that brings its own attention gets
ordinary padded batches instead.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from iepile_cli.training.encoding import IGNORED

if TYPE_CHECKING:
    import torch

ATTENTION = "iepile_rows"


@dataclass(frozen=True)
class RowCollator:
    """Lays examples end to end in one row of shape (1, total length).

    ``labels`` of shape (1, n) are the tokens to be said at the n positions ``logits_to_keep``.
    """

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A batch of one row."""
        import numpy as np
        import torch

        lengths = [len(example["input_ids"]) for example in examples]
        ids = np.concatenate([example["input_ids"] for example in examples])
        ends = np.cumsum([0, *lengths])
        targets, kept = [], []
        for example, start in zip(examples, ends, strict=False):
            # What is said at a position is learnt at the one before it; the first one nowhere.
            learnt = np.flatnonzero(np.asarray(example["labels"])[1:] != IGNORED)
            targets.append(np.asarray(example["labels"])[learnt + 1])
            kept.append(learnt + start)
        labels = torch.from_numpy(np.concatenate(targets).astype(np.int64))[None]
        return {
            "input_ids": torch.from_numpy(ids.astype(np.int64))[None],
            "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
            "cu_seq_lens_q": torch.from_numpy(ends.astype(np.int32)),
            "cu_seq_lens_k": torch.from_numpy(ends.astype(np.int32)),
            "max_length_q": max(lengths),
            "max_length_k": max(lengths),
            "logits_to_keep": torch.from_numpy(np.concatenate(kept)),
            "labels": labels,
            "shift_labels": labels,
        }


@dataclass(frozen=True)
class PaddedCollator:
    """An ordinary batch, padded on the right to a multiple of 8."""

    pad: int

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A batch of as many rows as examples."""
        import numpy as np
        import torch

        longest = max(len(example["input_ids"]) for example in examples)
        width = -(-longest // 8) * 8
        ids = np.full((len(examples), width), self.pad, dtype=np.int64)
        labels = np.full((len(examples), width), IGNORED, dtype=np.int64)
        mask = np.zeros((len(examples), width), dtype=np.int64)
        for row, example in enumerate(examples):
            length = len(example["input_ids"])
            ids[row, :length] = example["input_ids"]
            labels[row, :length] = example["labels"]
            mask[row, :length] = 1
        shifted = np.full_like(labels, IGNORED)
        shifted[:, :-1] = labels[:, 1:]
        return {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(mask),
            "labels": torch.from_numpy(labels),
            "shift_labels": torch.from_numpy(shifted),
        }


def use_rows(model: Any) -> bool:
    """Let a model attend within the examples of a row; False when it cannot be made to.

    flash-attention does so by itself; everything else gets ``row_attention``.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    if not getattr(model, "_supports_attention_backend", False) or not _keeps_logits(model):
        return False
    if "flash" in str(getattr(model.config, "_attn_implementation", "")):
        return True
    AttentionInterface.register(ATTENTION, row_attention)
    AttentionMaskInterface.register(ATTENTION, _no_mask)
    model.set_attn_implementation(ATTENTION)
    return bool(model.config._attn_implementation == ATTENTION)


def _keeps_logits(model: Any) -> bool:
    import inspect

    return "logits_to_keep" in inspect.signature(model.forward).parameters


def _no_mask(*_: Any, **__: Any) -> None:
    """The mask of ``row_attention``: none, it keeps examples apart by itself."""


def row_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each example of a row.

    ``query`` has shape (1, heads, length, width), ``key`` and ``value`` the same with as many
    heads as the model has for keys; gives (1, length, heads, width). Without ``cu_seq_lens_q``
    the row is one example. Used in place of transformers' ``sdpa``, which would build a mask of
    length times length for the whole row.
    """
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    bounds = [0, query.shape[2]] if cu_seq_lens_q is None else _bounds(cu_seq_lens_q)
    grouped = query.shape[1] != key.shape[1]
    outputs = []
    for start, end in itertools.pairwise(bounds):
        length = end - start
        narrow = sliding_window is not None and length > sliding_window
        outputs.append(
            scaled_dot_product_attention(
                query[:, :, start:end],
                key[:, :, start:end],
                value[:, :, start:end],
                attn_mask=_window(length, sliding_window or 0, query.device) if narrow else None,
                dropout_p=dropout,
                scale=scaling,
                is_causal=not narrow,
                enable_gqa=grouped,
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _bounds(ends: Any) -> list[int]:
    """Where examples begin and end, read once: each reading waits for the device to be done."""
    if not hasattr(ends, "bounds"):
        ends.bounds = ends.tolist()
    return list(ends.bounds)


def _window(length: int, width: int, device: Any) -> torch.Tensor:
    """A mask for attention to the last ``width`` positions."""
    import torch

    at = torch.arange(length, device=device)
    back = at[:, None] - at[None, :]
    return (back >= 0) & (back < width)


def answer_loss(
    logits: torch.Tensor, targets: torch.Tensor, count: torch.Tensor | int | None
) -> torch.Tensor:
    """Cross entropy of the answers' tokens, summed and divided by ``count`` (None: their mean)."""
    from torch.nn.functional import cross_entropy

    flat, wanted = logits.reshape(-1, logits.shape[-1]).float(), targets.reshape(-1)
    wanted = wanted.to(flat.device)
    if count is None:
        return cross_entropy(flat, wanted, ignore_index=IGNORED)
    total = cross_entropy(flat, wanted, ignore_index=IGNORED, reduction="sum")
    return total / (count.to(total.device) if hasattr(count, "to") else count)
