"""Attention within the examples of a packed row, and the collator that fits a model."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from iepile_cli.training.packing import Layout, PackedCollator, PaddedCollator, Segments

if TYPE_CHECKING:
    import torch

ATTENTION = "iepile_packed"


def collator_for(model: Any, *, packing: bool = True) -> PackedCollator | PaddedCollator:
    """What makes the batches that a model takes; lets it attend within the examples of a row.

    flash-attention does so by itself; everything else gets ``packed_attention``. A model that
    cannot be made to, or whose attention was chosen by the user, gets padded batches.
    """
    config = model.config
    chosen = str(getattr(config, "_attn_implementation", "") or "")
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    pad = getattr(config, "pad_token_id", None)
    padded = PaddedCollator(0 if pad is None else int(pad), shifts=takes_loss_arguments(inner))
    known = inspect.signature(inner.forward).parameters
    if (
        not packing
        or "logits_to_keep" not in known
        or not getattr(inner, "_supports_attention_backend", False)
        or _mixes_rows(inner)
    ):
        return padded
    if "flash" in chosen:
        return PackedCollator(shares=False)
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(ATTENTION, packed_attention)
    AttentionMaskInterface.register(ATTENTION, _no_mask)
    inner.set_attn_implementation(ATTENTION)
    return PackedCollator() if inner.config._attn_implementation == ATTENTION else padded


def takes_loss_arguments(model: Any) -> bool:
    """Whether a model's loss takes ``shift_labels`` and the number of tokens of a whole step."""
    parameters = inspect.signature(model.forward).parameters.values()
    return any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)


def _mixes_rows(model: Any) -> bool:
    """Whether something in a model would carry from one example of a row into the next.

    That is anything but plain attention: states that run along the row (Mamba, linear attention,
    convolutions), chunks counted from the start of the row; and what ``packed_attention`` does not
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


def _no_mask(*_: Any, **__: Any) -> None:
    """The mask of ``packed_attention``: none, it keeps examples apart by itself."""


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    layout: Layout | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each example of a row, and to what it shares with those before it.

    ``query`` has shape (1, heads, length, width), ``key`` and ``value`` the same with as many
    heads as the model has for keys; gives (1, length, heads, width). Without ``layout`` the row is
    one example. On a GPU it is one variable-length call; elsewhere a call for each example.
    """
    layout = layout or Layout([query.shape[2]], [0])
    kernel = varlen_kernel() if query.is_cuda and query.element_size() == 2 else None
    if kernel is not None and not dropout:
        return varlen_attention(kernel, query, key, value, layout, scaling, sliding_window), None
    return _each_attention(query, key, value, layout, scaling, sliding_window, dropout), None


def varlen_attention(
    kernel: Callable[..., torch.Tensor],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: Layout,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """``packed_attention`` in one call: shared keys and values are gathered before it.

    ``kernel`` is called with (tokens, heads, width) arrays, a ``Segments``, scaling and window.
    """
    segments = layout.segments(query.device)
    # (1, heads, length, width) to (length, heads, width)
    queries, keys, values = (one[0].transpose(0, 1) for one in (query, key, value))
    if segments.key_index is not None:
        keys = keys.index_select(0, segments.key_index)
        values = values.index_select(0, segments.key_index)
    return kernel(queries, keys, values, segments, scaling, window)[None]


@functools.cache
def varlen_kernel() -> Callable[..., torch.Tensor] | None:
    """The variable-length attention there is: torch's, else flash-attention's; None for neither.

    Both see each example's queries at the end of its keys.
    """
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        varlen_attn = None
    if varlen_attn and "enable_gqa" in inspect.signature(varlen_attn).parameters:
        return functools.partial(_call_varlen, varlen_attn, own=True)
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError:
        return None
    return functools.partial(_call_varlen, flash_attn_varlen_func, own=False)


def _call_varlen(
    call: Any, q: Any, k: Any, v: Any, at: Segments, scaling: Any, window: Any, *, own: bool
) -> Any:
    """Call torch's ``own`` function or flash-attention's, whose parameters have other names."""
    lengths = (at.queries, at.keys, at.longest_query, at.longest_key)
    # So many positions back, and none ahead.
    span = (window - 1 if window else -1, 0)
    if own:
        grouped = q.shape[1] != k.shape[1]
        return call(q, k, v, *lengths, scale=scaling, window_size=span, enable_gqa=grouped)
    return call(q, k, v, *lengths, softmax_scale=scaling, causal=True, window_size=span)


def _each_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: Layout,
    scaling: float | None,
    window: int | None,
    dropout: float,
) -> torch.Tensor:
    """``packed_attention`` example by example."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    # Cut by split: the backward pass of many slices would fill a whole row with zeros for each.
    queries = query.split(layout.own, dim=2)
    keys, values = key.split(layout.own, dim=2), value.split(layout.own, dim=2)

    def gathered(pieces: Sequence[torch.Tensor], chain: Sequence[tuple[int, int]]) -> torch.Tensor:
        if len(chain) == 1:
            return pieces[chain[0][0]]
        return torch.cat([pieces[at][:, :, :count] for at, count in chain], dim=2)

    outputs = []
    for example, chain in enumerate(layout.chains):
        mask = layout.mask(example, window, query.device)
        attended = scaled_dot_product_attention(
            queries[example],
            gathered(keys, chain),
            gathered(values, chain),
            attn_mask=mask,
            dropout_p=dropout,
            scale=scaling,
            is_causal=mask is None,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        outputs.append(attended.transpose(1, 2))
    return torch.cat(outputs, dim=1)
