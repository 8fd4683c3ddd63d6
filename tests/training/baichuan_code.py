"""A model of Baichuan 2's shape, as code that comes with a model folder.

What is its own: one weight for query, key and value (W_pack), an output whose rows are normalised
(NormHead), no arguments beyond its own in ``forward``; rotated positions in the 7B's shape of 32
layers, ALiBi in the 13B's of 40, whose configuration names its length ``model_max_length``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

OF_13B = 40


class BaichuanConfig(PretrainedConfig):
    """Its configuration."""

    model_type = "baichuan"

    def __init__(
        self,
        vocab_size: int = 64,
        hidden_size: int = 64,
        intermediate_size: int = 96,
        num_hidden_layers: int = 32,
        num_attention_heads: int = 4,
        model_max_length: int = 512,
        rms_norm_eps: float = 1e-6,
        **more: Any,
    ) -> None:
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self.intermediate_size, self.num_hidden_layers = intermediate_size, num_hidden_layers
        self.num_attention_heads, self.model_max_length = num_attention_heads, model_max_length
        self.rms_norm_eps = rms_norm_eps
        super().__init__(**more)


class RMSNorm(nn.Module):
    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, states: Any) -> Any:
        return self.weight * functional.rms_norm(states, states.shape[-1:], eps=self.epsilon)


class NormHead(nn.Module):
    """An output whose rows are normalised whenever it is used."""

    def __init__(self, size: int, tokens: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(tokens, size))

    def forward(self, states: Any) -> Any:
        return functional.linear(states, functional.normalize(self.weight))


class Attention(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.W_pack = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, states: Any, mask: Any, positions: Any) -> Any:
        rows, length, width = states.shape
        parts = self.W_pack(states).view(rows, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        if positions is not None:
            query, key = rotated(query, *positions), rotated(key, *positions)
        said = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.o_proj(said.transpose(1, 2).reshape(rows, length, width))


def rotated(states: Any, cosine: Any, sine: Any) -> Any:
    first, second = states.chunk(2, dim=-1)
    return states * cosine + torch.cat((-second, first), dim=-1) * sine


class MLP(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        size, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(size, inner, bias=False)
        self.up_proj = nn.Linear(size, inner, bias=False)
        self.down_proj = nn.Linear(inner, size, bias=False)

    def forward(self, states: Any) -> Any:
        return self.down_proj(functional.silu(self.gate_proj(states)) * self.up_proj(states))


class Layer(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(config), MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, states: Any, mask: Any, positions: Any) -> Any:
        states = states + self.self_attn(self.input_layernorm(states), mask, positions)
        return states + self.mlp(self.post_attention_layernorm(states))


class BaichuanPreTrainedModel(PreTrainedModel):
    config_class = BaichuanConfig
    base_model_prefix = "model"
    _no_split_modules = ("Layer",)

    def _init_weights(self, module: Any) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding, NormHead)):
            nn.init.normal_(module.weight, std=0.05)


class BaichuanModel(BaichuanPreTrainedModel):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([Layer(config) for _ in range(config.num_hidden_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_init()

    def forward(self, input_ids: Any, attention_mask: Any = None) -> Any:
        states = self.embed_tokens(input_ids)
        at = torch.arange(input_ids.shape[1], device=states.device)
        mask = torch.zeros(len(at), len(at), device=states.device)
        mask = mask.masked_fill(at[None, :] > at[:, None], -math.inf)[None, None]
        if attention_mask is not None:
            # Padding is on the right: what is padded is only kept from being looked at.
            mask = mask.masked_fill(attention_mask[:, None, None, :] == 0, -1e9)
        positions = None
        if len(self.layers) == OF_13B:
            heads = self.config.num_attention_heads
            slopes = torch.tensor([2 ** (-8 * (head + 1) / heads) for head in range(heads)])
            mask = mask + slopes[None, :, None, None] * (at[None, :] - at[:, None])
        else:
            width = self.config.hidden_size // self.config.num_attention_heads
            rates = 10_000.0 ** (-torch.arange(0, width, 2) / width)
            angles = (at[:, None] * rates).repeat(1, 2)
            positions = angles.cos(), angles.sin()
        for layer in self.layers:
            states = layer(states, mask, positions)
        return self.norm(states)


class BaichuanForCausalLM(BaichuanPreTrainedModel, GenerationMixin):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model = BaichuanModel(config)
        self.lm_head = NormHead(config.hidden_size, config.vocab_size)
        self.post_init()

    def get_input_embeddings(self) -> Any:
        return self.model.embed_tokens

    def get_output_embeddings(self) -> Any:
        return self.lm_head

    def set_output_embeddings(self, new: Any) -> None:
        self.lm_head = new

    def prepare_inputs_for_generation(
        self, input_ids: Any, attention_mask: Any = None, **_: Any
    ) -> dict[str, Any]:
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        past_key_values: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        use_cache: Any = None,
        output_attentions: Any = None,
        output_hidden_states: Any = None,
        return_dict: Any = None,
    ) -> Any:
        logits = self.lm_head(self.model(input_ids, attention_mask))
        loss = None
        if labels is not None:
            loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutputWithPast(loss=loss, logits=logits)
