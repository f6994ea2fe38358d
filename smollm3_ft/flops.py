"""Floating-point operations of training, counted by hand: those that the model asks for, not those made twice.

A multiplication and an addition are two. Causal attention counts the pairs of tokens that see each other. Looking up
an embedding counts nothing, and so do norms, rotations and activations. Method: Chowdhery et al., PaLM (2022), app. B.
"""

from __future__ import annotations

from smollm3_ft.config import Config, Train
from smollm3_ft.models import ModelPlan


def of(config: Config, model: ModelPlan, tokens: float, supervised: float, pairs: float) -> float:
    """Forward and backward over `tokens`, of which `supervised` are trained on: logits are made for these alone.

    `pairs` is the sum of the documents' squared lengths. A frozen weight has no gradient: it costs four operations a
    token instead of six.
    """
    each = 6 if config.train.adapter == "none" else 4
    linear = each * (linear_parameters(model) * tokens + model.vocabulary * model.hidden * supervised)
    adapter = 0 if config.train.adapter == "none" else 6 * adapter_parameters(config.train, model) * tokens
    return linear + adapter + 3 * forward_attention(model, pairs)


def forward_attention(model: ModelPlan, pairs: float) -> float:
    """Scores and weighted sums, forward, of the half of all pairs that causal attention sees."""
    return 2 * model.layers * model.heads * model.head_size * pairs


def linear_parameters(model: ModelPlan) -> int:
    """Weights that every token is multiplied with: all but the embedding and the output head."""
    return model.parameters - model.vocabulary * model.hidden * (1 if model.tied else 2)


def adapter_parameters(train: Train, model: ModelPlan) -> int:
    """Of LoRA: two matrices beside each of its targets."""
    targets = train.lora.targets
    sides = [sum(shape) for name, shape in linear_shapes(model).items() if isinstance(targets, str) or name in targets]
    return train.lora.r * model.layers * sum(sides)


def linear_shapes(model: ModelPlan) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of each linear layer of a decoder layer."""
    queries, keys = model.heads * model.head_size, model.kv_heads * model.head_size
    return {
        "q_proj": (model.hidden, queries),
        "k_proj": (model.hidden, keys),
        "v_proj": (model.hidden, keys),
        "o_proj": (queries, model.hidden),
        "gate_proj": (model.hidden, model.intermediate),
        "up_proj": (model.hidden, model.intermediate),
        "down_proj": (model.intermediate, model.hidden),
    }
