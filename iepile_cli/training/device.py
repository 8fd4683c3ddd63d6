"""On what a run computes and in which number format, and frozen weights in bf16.

On processors that multiply in bf16, frozen weights are in it under a computation in 32 bits: only
the products with weights that do not change, forward and backward. Their results are 32 bits again
before anything is added to them, so what LoRA adds is not rounded away, as it is by autocast;
norms, residuals, attention and loss stay in 32 bits too.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from iepile_cli.backends.transformers_loading import device_for
from iepile_cli.errors import UsageError
from iepile_cli.training.distributed import own_gpu
from iepile_cli.training.options import TrainOptions

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Device:
    """A device (``cpu``, ``cuda``, ``mps``), a number format, and why that format was chosen.

    ``rounds_frozen``: weights that are not trained are in bf16, whatever the rest is computed in.
    """

    kind: str
    dtype: str
    reason: str = ""
    rounds_frozen: bool = False

    def __str__(self) -> str:
        frozen = ", frozen weights in bf16" if self.rounds_frozen else ""
        return f"{self.kind}, {self.dtype}{frozen}"

    @property
    def torch_dtype(self) -> Any:
        """The format as torch names it."""
        import torch

        return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[self.dtype]

    def free_memory(self) -> int:
        """Bytes that are free on the device."""
        if self.kind == "cuda":
            import torch

            return int(torch.cuda.mem_get_info(own_gpu())[0])
        import psutil

        return int(psutil.virtual_memory().available)


def choose_device(options: TrainOptions) -> Device:
    """The device and number format for some options.

    On CUDA bf16 where the GPU computes with it, otherwise fp16; fp32 elsewhere, with LoRA's frozen
    weights in bf16 on a CPU that multiplies in it. Raises ``UsageError`` for a device that is not
    there or a format it cannot train in.
    """
    import torch

    kind = device_for(options.device)
    if options.dtype != "auto":
        if options.dtype == "fp16" and kind != "cuda":
            raise UsageError(
                f"--dtype fp16 cannot train on {kind}", hint="use --dtype bf16 or fp32"
            )
        return Device(kind, options.dtype, "asked for")
    if kind == "cpu" and _can_round_frozen(options) and multiplies_in_bf16():
        return Device(kind, "fp32", "this CPU multiplies in bf16", rounds_frozen=True)
    return Device(kind, *_number_format(kind, torch))


def _can_round_frozen(options: TrainOptions) -> bool:
    """Whether frozen weights are neither written with the result, nor quantised or sharded."""
    sharded = options.deepspeed or options.fsdp
    return options.method == "lora" and options.bits == 16 and not sharded


def _number_format(kind: str, torch: Any) -> tuple[str, str]:
    if kind == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "this GPU computes in bf16"
        return "fp16", "this GPU does not compute in bf16"
    if kind == "mps":
        return "fp32", "training on MPS is stable in fp32"
    # Autocast to bf16 makes a whole step no faster even on a CPU that has it, and rounds away what
    # LoRA adds to large values: measured, after one step the loss was 1.29 with it, 1.20 without.
    return "fp32", "bf16 is no faster on a CPU and learns worse"


def multiplies_in_bf16() -> bool:
    """Whether this processor has instructions for products in bf16, and torch uses them."""
    import torch

    # Names of torch's own that may change: without them weights stay in 32 bits.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return torch.backends.mkldnn.is_available() and any(
        check() for name in checks if (check := getattr(torch.cpu, name, None))
    )


# --------------------------------------------------------------------------------- frozen weights


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
