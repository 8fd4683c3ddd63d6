"""Frozen weights in bf16 under a computation in 32 bits, for processors that multiply in bf16.

Only the products with weights that do not change are in bf16, forward and backward. Their results
are 32 bits again before anything is added to them, so what LoRA adds is not rounded away, as it is
by autocast; norms, residuals, attention and loss stay in 32 bits too.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def multiplies_in_bf16() -> bool:
    """Whether this processor has instructions for products in bf16, and torch uses them."""
    import torch

    # Names of torch's own that may change: without them weights stay in 32 bits.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return torch.backends.mkldnn.is_available() and any(
        check() for name in checks if (check := getattr(torch.cpu, name, None))
    )


def round_frozen(model: Any) -> None:
    """Put every linear layer that is not trained into bf16, and all other weights into 32 bits.

    Layers of other kinds, such as those of bitsandbytes, stay as they are. An embedding that is
    tied to a frozen output keeps its own weights in 32 bits, as does what is trained.
    """
    import torch

    linear = _frozen_linear()
    frozen = [
        (parent, name, layer)
        for parent in model.modules()
        for name, layer in parent.named_children()
        if type(layer) is torch.nn.Linear and not layer.weight.requires_grad
    ]
    for parent, name, layer in frozen:
        setattr(parent, name, linear(layer))
    for module in model.modules():
        if isinstance(module, linear):
            continue
        for weight in module.parameters(recurse=False):
            if weight.is_floating_point():
                weight.data = weight.data.to(torch.float32)


@functools.cache
def _frozen_linear() -> Any:
    """A linear layer with its weight in bf16, which takes and gives 32 bits."""
    import torch

    class Product(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(context: Any, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            context.save_for_backward(weight)
            return torch.nn.functional.linear(rows.to(weight.dtype), weight).to(rows.dtype)

        @staticmethod
        def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
            (weight,) = context.saved_tensors
            return (gradients[0].to(weight.dtype) @ weight).to(gradients[0].dtype), None

    class FrozenLinear(torch.nn.Linear):  # type: ignore[misc]
        def __init__(self, layer: torch.nn.Linear) -> None:
            torch.nn.Module.__init__(self)
            self.in_features, self.out_features = layer.in_features, layer.out_features
            weight = layer.weight.detach().to(torch.bfloat16)
            self.weight = torch.nn.Parameter(weight, requires_grad=False)
            self.bias = layer.bias
            if self.bias is not None:
                self.bias.data = self.bias.data.to(torch.float32)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            product = Product.apply(rows, self.weight)
            return product if self.bias is None else product + self.bias

    return FrozenLinear
