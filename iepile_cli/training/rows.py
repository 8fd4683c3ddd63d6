"""Batches: examples laid end to end in one row, each attending to itself alone.

Nothing is padded. Positions start anew with each example, and attention is computed example by
example, so that the result is the same as for each example in a batch of its own. What examples
begin with alike is computed once (see ``prefixes``). Logits are computed only where an answer's
token is to be said. A model that brings its own attention gets ordinary padded batches instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from iepile_cli.training.encoding import IGNORED
from iepile_cli.training.prefixes import Layout, arranged

if TYPE_CHECKING:
    import torch

ATTENTION = "iepile_rows"


@dataclass(frozen=True)
class RowCollator:
    """Lays examples end to end in one row of shape (1, total length).

    ``labels`` of shape (1, n) are the tokens to be said at the n positions ``logits_to_keep``.
    ``tokens`` counts the tokens of the whole examples, shared or not. With ``shares`` the row is
    for ``row_attention``: what examples begin with alike is in it once, and ``row_parts`` of shape
    (examples, 2) holds how many tokens each has in the row and how many more it shares with the
    one before it. Without, it is for flash-attention, which takes ``cu_seq_lens_q`` and so on.
    """

    shares: bool = True

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A batch of one row."""
        import numpy as np
        import torch

        ids = [np.asarray(example["input_ids"]) for example in examples]
        labels = [np.asarray(example["labels"]) for example in examples]
        # What is said at a position is learnt at the one before it; the first one nowhere.
        learnt = [np.flatnonzero(one[1:] != IGNORED) for one in labels]
        order = [(at, 0) for at in range(len(ids))]
        if self.shares:
            # The states that logits are taken from stay with their example.
            limits = [
                int(at[0]) if len(at) else len(one) for at, one in zip(learnt, ids, strict=True)
            ]
            order = arranged(ids, limits)
        row, positions, targets, kept = [], [], [], []
        parts, start = [], 0
        for at, shared in order:
            length = len(ids[at])
            row.append(ids[at][shared:])
            positions.append(np.arange(shared, length))
            targets.append(labels[at][learnt[at] + 1])
            kept.append(learnt[at] - shared + start)
            parts.append((length - shared, shared))
            start += length - shared
        wanted = _whole(targets)[None]
        return {
            "input_ids": _whole(row)[None],
            "position_ids": _whole(positions)[None],
            "logits_to_keep": _whole(kept),
            "labels": wanted,
            "shift_labels": wanted,
            "tokens": sum(map(len, ids)),
            **({"row_parts": torch.tensor(parts)} if self.shares else _for_flash(parts)),
        }


def _whole(arrays: Sequence[Any]) -> torch.Tensor:
    """Arrays of numbers one after the other."""
    import numpy as np
    import torch

    return torch.from_numpy(np.concatenate(arrays).astype(np.int64))


def _for_flash(parts: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Where examples begin and end, as flash-attention takes it."""
    import itertools

    import torch

    lengths = [own for own, _ in parts]
    ends = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    longest = max(lengths)
    return {
        "cu_seq_lens_q": ends,
        "cu_seq_lens_k": ends.clone(),
        "max_length_q": longest,
        "max_length_k": longest,
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
            "tokens": int(mask.sum()),
        }


def token_lengths(batch: Mapping[str, Any]) -> torch.Tensor:
    """For each token of a batch, shape (rows, length), how long its whole example is."""
    import torch

    ids = batch["input_ids"]
    if "attention_mask" in batch:
        return batch["attention_mask"].sum(dim=1, keepdim=True).expand(ids.shape)
    if "row_parts" in batch:
        parts = batch["row_parts"]
        return torch.repeat_interleave(parts.sum(dim=1), parts[:, 0])[None]
    lengths = batch["cu_seq_lens_q"].diff()
    return torch.repeat_interleave(lengths, lengths)[None]


def row_collator(model: Any) -> RowCollator | None:
    """Let a model attend within the examples of a row; None when it cannot be made to.

    flash-attention does so by itself; everything else gets ``row_attention``. Gives what makes
    the rows that the model then takes.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    if not getattr(model, "_supports_attention_backend", False) or not _keeps_logits(model):
        return None
    if _mixes_rows(model):
        return None
    if "flash" in str(getattr(model.config, "_attn_implementation", "")):
        return RowCollator(shares=False)
    AttentionInterface.register(ATTENTION, row_attention)
    AttentionMaskInterface.register(ATTENTION, _no_mask)
    model.set_attn_implementation(ATTENTION)
    return RowCollator() if model.config._attn_implementation == ATTENTION else None


def _mixes_rows(model: Any) -> bool:
    """Whether something in a model would carry from one example of a row into the next.

    That is anything but plain attention: states that run along the row (Mamba, linear attention,
    convolutions), chunks counted from the start of the row; and what ``row_attention`` does not
    compute: sinks, capped scores.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    return (
        bool(kinds - {"full_attention", "sliding_attention", "attention"})
        or bool(getattr(model, "_is_stateful", False))
        or bool(getattr(config, "attn_logit_softcapping", None))
        or any(name.endswith(".sinks") for name, _ in model.named_parameters())
    )


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
    row_parts: torch.Tensor | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each example of a row, and to what it shares with those before it.

    ``query`` has shape (1, heads, length, width), ``key`` and ``value`` the same with as many
    heads as the model has for keys; gives (1, length, heads, width). Without ``row_parts`` (see
    ``RowCollator``) the row is one example. Used in place of transformers' ``sdpa``, which would
    build a mask of length times length for the whole row.
    """
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    layout = Layout([query.shape[2]], [0]) if row_parts is None else _layout(row_parts)
    grouped = query.shape[1] != key.shape[1]
    # Cut by split: the way back of many slices would fill a whole row with zeros for each.
    queries = query.split(layout.own, dim=2)
    keys, values = key.split(layout.own, dim=2), value.split(layout.own, dim=2)
    outputs = []
    for example, chain in enumerate(layout.chains):
        mask = layout.mask(example, sliding_window, query.device)
        seen = scaled_dot_product_attention(
            queries[example],
            _joined(keys, chain),
            _joined(values, chain),
            attn_mask=mask,
            dropout_p=dropout,
            scale=scaling,
            is_causal=mask is None,
            enable_gqa=grouped,
        )
        outputs.append(seen.transpose(1, 2))
    return torch.cat(outputs, dim=1), None


def _joined(pieces: Sequence[torch.Tensor], chain: Sequence[tuple[int, int]]) -> torch.Tensor:
    """The keys or values of a chain of a ``Layout``."""
    import torch

    if len(chain) == 1:
        return pieces[chain[0][0]]
    return torch.cat([pieces[at][:, :, :count] for at, count in chain], dim=2)


def _layout(parts: Any) -> Layout:
    """The layout of a row, read once: each reading waits for the device to be done."""
    if not hasattr(parts, "row_layout"):
        own, shared = parts.T.tolist()
        parts.row_layout = Layout(own, shared)
    layout: Layout = parts.row_layout
    return layout


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
