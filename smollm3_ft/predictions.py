"""What a training takes of its device, by plain arithmetic: what must be kept and done for a model of its shape."""

from __future__ import annotations

import math
from typing import NamedTuple

from smollm3_ft import flops
from smollm3_ft.config import Config
from smollm3_ft.devices import Device
from smollm3_ft.models import BYTES, ModelPlan

LIBRARIES = 650 * 2**20  # bytes that torch and what it loads take before any model, on the CPU as on CUDA
LOGITS_AT_ONCE = 2**27  # as scoring has them on a GPU
SPLITTING = 500  # tokens whose time a micro-batch takes beside its own: weights are cast, and gradients added, again


class Work(NamedTuple):
    """What there is to train on: sequences and tokens an epoch, the longest sequence, and the documents in them."""

    sequences: int
    tokens: int
    longest: int
    documents: int | None = None  # as many as sequences, where it is not told


class Micro(NamedTuple):
    """What goes through the model at a time."""

    tokens: int
    checkpointing: int = 0  # of every n-th layer the activations are made again; 0 of none
    accumulates: bool = False  # gradients of the micro-batches before it are there


def memory(config: Config, model: ModelPlan, device: Device, micro: Micro) -> int:
    """Peak bytes on the device: the larger of what is there when the loss goes back, and at the optimizer's step.

    Of a model that is spread over processes, the embedding and two layers are whole at a time, with their gradients.
    """
    item, trained = BYTES[config.model.dtype], trained_parameters(config, model)
    full = config.train.adapter == "none"
    held = 12 * trained + (0 if full else _frozen(config, model))  # masters with Adam's moments; the frozen base
    gradients = 4 * trained
    if device.shards is not None:
        embedding = model.vocabulary * model.hidden
        whole = embedding + 2 * (model.parameters - embedding) // model.layers
        held, gradients = held // device.shards + 8 * whole, gradients // device.shards
    elif config.compute.num_processes > 1:
        held += 4 * trained  # what the processes exchange
    copies = item * trained if full and item < 4 else 0  # of the weights, in the type that is computed in
    again = checkpointed_layers(model, micro.checkpointing)
    layer = layer_activations(config, model, device)
    residual = 4 if full else item
    kept = (model.layers - again) * layer + again * residual * model.hidden + 4 * residual * model.hidden
    kept += layer if again else 0  # the one that is made again
    logits = 4 * model.vocabulary * micro.tokens  # accelerate turns what a model says into float32, all at once
    piece = 4 * min(LOGITS_AT_ONCE, model.vocabulary * micro.tokens)
    standing = held + micro.tokens * kept + (gradients if micro.accumulates else 0)
    forward = standing + copies + logits * (4 + item) // 4
    backward = standing + copies * (model.layers - again) // model.layers + 2 * logits + piece
    return LIBRARIES + max(forward, backward, held + gradients + copies // model.layers)


def _frozen(config: Config, model: ModelPlan) -> int:
    """Bytes of a frozen base: in the computing type, or its linear layers in 4.13 bits a weight (QLoRA, NF4 with double
    quantisation: Dettmers et al. 2023, arXiv:2305.14314)."""
    item = BYTES[config.model.dtype]
    if config.train.adapter != "qlora":
        return model.parameters * item
    embedding = model.vocabulary * model.hidden * (1 if model.tied else 2)  # and the head: they stay as they are
    return int(embedding * item + (model.parameters - embedding) * 4.13 / 8)


def variants(config: Config, model: ModelPlan) -> int:
    """Bytes of the quantized variants on the disk: embeddings as they are, else up to ten bits a weight."""
    if config.publish.quantize is None or config.publish.target == "none":
        return 0
    embedding = model.vocabulary * model.hidden * (1 if model.tied else 2)
    one = embedding * BYTES[config.model.dtype] + (model.parameters - embedding) * 10 // 8
    return len(config.publish.quantize) * one


def layer_activations(config: Config, model: ModelPlan, device: Device) -> int:
    """Bytes that a token leaves in a decoder layer for its way back. Bf16 is computed in by autocast.

    Autocast gives each linear layer an input of its own. Norms are computed in float32, and keep what goes in and, for
    the gradient of their weights, what comes out; fused kernels keep the first alone, and not the gate's activation.
    """
    item, hidden = BYTES[config.model.dtype], model.hidden
    full, half = config.train.adapter == "none", BYTES[config.model.dtype] < 4
    queries, keys = model.heads * model.head_size, model.kv_heads * model.head_size
    norms = 2 * hidden * (4 if full or not device.fused else item) * (2 if full and not device.fused else 1) + 8
    inputs = item * hidden * (5 if half else 2) + (0 if full or not half else item * queries)
    attention = item * (2 * queries + 2 * keys) + 4 * model.heads
    if device.kind == "cpu":  # taken out of the sequence by document, keys and values once for each query head
        attention = item * 6 * queries
    mlp = item * model.intermediate * (3 if device.fused else 4)
    adapter = 0 if full else item * 7 * config.train.lora.r
    return norms + inputs + attention + mlp + adapter


def checkpointed_layers(model: ModelPlan, every: int) -> int:
    return math.ceil(model.layers / every) if every else 0


def trained_parameters(config: Config, model: ModelPlan) -> int:
    if config.train.adapter == "none":
        return model.parameters
    return flops.adapter_parameters(config.train, model)


def relative_cost(model: ModelPlan, micro: Micro) -> float:
    """Of a token, by how it is trained: 1 with nothing computed twice, in one large micro-batch."""
    return 1 + checkpointed_layers(model, micro.checkpointing) / model.layers / 3 + SPLITTING / micro.tokens


def seconds(config: Config, work: Work, model: ModelPlan, device: Device, checkpointing: int = 0) -> float:
    """An epoch: the model's operations and those made again, at the device's usual rate.

    Every token counts as trained on, and documents as equally long.
    """
    pairs = work.tokens**2 / (work.documents or work.sequences)
    needed = flops.of(config, model, work.tokens, work.tokens, pairs)
    share = checkpointed_layers(model, checkpointing) / model.layers
    forward = 2 * flops.linear_parameters(model) * work.tokens + flops.forward_attention(model, pairs)
    at_once = config.compute.num_processes if device.kind == "cuda" else 1  # processes share the cores of a CPU
    reference = 1 if config.train.method == "dpo" else 0  # in full fine-tuning in the first epoch alone
    return (needed + (share + reference) * forward) / (device.flops * at_once)
