"""NEFTune: uniform noise on embeddings in training, weaker for longer examples.

transformers has it too, but counts the length of a row; ours may hold many examples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class Neftune:
    """Noise of alpha / sqrt(length x width) on a model's embeddings while it trains.

    ``lengths``, shape (rows, length), is set before each call of the model: how long the example
    of each token is.
    """

    def __init__(self, model: Any, alpha: float) -> None:
        self.alpha = alpha
        self.lengths: torch.Tensor | None = None
        model.get_input_embeddings().register_forward_hook(self._add)

    def _add(self, module: Any, _: Any, output: torch.Tensor) -> torch.Tensor:
        import torch

        if not module.training or self.lengths is None:
            return output
        size = self.lengths.to(output.device) * output.shape[-1]
        strength = (self.alpha / size.sqrt())[..., None].to(output.dtype)
        return output + (2 * torch.rand_like(output) - 1) * strength
