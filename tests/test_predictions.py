"""What is predicted of a device's memory is what the parts of a training take, counted on small models."""

from typing import Any

import pytest
import torch
import transformers
from conftest import configure
from test_settling import CPU, MILLION, SMOLLM3

from smollm3_ft import attention, flops, predictions, scoring
from smollm3_ft.config import Config
from smollm3_ft.devices import Device
from smollm3_ft.models import ModelPlan
from smollm3_ft.predictions import Micro, Work

pytestmark = [  # imports torch; PEFT asks transformers by an older name
    pytest.mark.process,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),
]

GPU = Device("cuda", "a GPU", 80 * 2**30, 4e14)
TOKENS = 256
SHAPES = [(128, 512, 4, 1), (192, 320, 4, 4)]  # hidden, intermediate, heads, key and value heads
KINDS = [("none", "bfloat16"), ("none", "float32"), ("lora", "bfloat16"), ("lora", "float32")]


class Kernel(torch.autograd.Function):
    """Keeps for its way back what torch's variable-length kernel keeps (torch/nn/attention/varlen.py)."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any) -> Any:
        out, sums = query.clone(), query.new_empty(query.shape[1], query.shape[0], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, sums)
        return out


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "varlen_attn", lambda query, key, value, *_, **__: Kernel.apply(query, key, value))


def small(layers: int, shape: tuple[int, int, int, int]) -> Any:
    hidden, intermediate, heads, kv_heads = shape
    return transformers.SmolLM3Config(
        vocab_size=64,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


def model_of(config: Config, layers: int, shape: tuple[int, int, int, int], every: int) -> Any:
    """A model as `trainers.load_model` has it, with an adapter as TRL adds it."""
    import peft

    full = config.train.adapter == "none"
    dtype = torch.float32 if full else getattr(torch, config.model.dtype)
    model = transformers.AutoModelForCausalLM.from_config(small(layers, shape), dtype=dtype)
    model.set_attn_implementation(attention.NAME)
    if every:
        model.activation_checkpointing_enable(every_n_layers=every)
    if not full:
        lora = peft.LoraConfig(r=config.train.lora.r, target_modules="all-linear", task_type="CAUSAL_LM")
        model = peft.get_peft_model(model, lora).get_base_model()
    return model.train()


def kept(config: Config, layers: int, shape: tuple[int, int, int, int], every: int = 0) -> int:
    """Bytes that are kept for the way back beside the weights, and beside their copies in another type."""
    model = model_of(config, layers, shape, every)
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    copies = {(tuple(weight.shape)) for weight in model.parameters()}
    copies |= {shape[::-1] for shape in copies}
    found: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in weights and tuple(tensor.shape) not in copies:
            found[place] = tensor
        return tensor

    told = attention.layout([TOKENS // 2, TOKENS // 2], kernel=True)
    told |= {"input_ids": torch.ones(1, TOKENS, dtype=torch.long), "position_ids": torch.arange(TOKENS)[None]}
    half = config.model.dtype == "bfloat16"
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        model.model(**told, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


def described(shape: tuple[int, int, int, int]) -> ModelPlan:
    hidden, intermediate, heads, kv_heads = shape
    sizes = {"hidden": hidden, "intermediate": intermediate, "heads": heads, "kv_heads": kv_heads}
    return MILLION.model_copy(update={**sizes, "head_size": hidden // heads})


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("adapter", "dtype"), KINDS)
def test_activations_of_a_layer(adapter: str, dtype: str, shape: tuple[int, int, int, int], kernel: None) -> None:
    """What a layer keeps is predicted within 2 %, in full and with an adapter, in float32 and by autocast."""
    config = configure(train__adapter=adapter, model__dtype=dtype)
    measured = (kept(config, 6, shape) - kept(config, 2, shape)) / 4 / TOKENS
    assert predictions.layer_activations(config, described(shape), GPU) == pytest.approx(measured, rel=0.02)


@pytest.mark.parametrize(("adapter", "dtype"), KINDS[1:])
def test_activations_of_layers_that_are_made_again(adapter: str, dtype: str, kernel: None) -> None:
    """Of every third layer of six only the input is kept; the prediction is within 5 %."""
    config, shape = configure(train__adapter=adapter, model__dtype=dtype), SHAPES[0]
    model = described(shape).model_copy(update={"layers": 6})
    saved = (kept(config, 6, shape) - kept(config, 6, shape, every=3)) / TOKENS
    without, with_some = (predictions.memory(config, model, GPU, Micro(TOKENS, every, True)) for every in (0, 3))
    again = predictions.layer_activations(config, model, GPU)  # one is there while it is made again
    assert (without - with_some) / TOKENS + again == pytest.approx(saved, rel=0.05)


def test_fused_kernels_keep_less() -> None:
    """With Liger a layer of SmolLM3-3B keeps a quarter less: norms keep their input, gates no activation."""
    config = configure(model__dtype="bfloat16")
    plain, fused = (predictions.layer_activations(config, SMOLLM3, GPU._replace(fused=it)) for it in (False, True))
    assert plain - fused == 2 * 4 * 2048 + 2 * 11008


@pytest.mark.parametrize(("adapter", "dtype", "bytes_each"), [("none", "bfloat16", 16), ("lora", "bfloat16", 2)])
def test_memory_of_the_weights(adapter: str, dtype: str, bytes_each: int) -> None:
    """A trained parameter takes its float32 master, its gradient and two moments; a frozen one itself in bfloat16."""
    config = configure(model__dtype=dtype, train__adapter=adapter)
    double = SMOLLM3.model_copy(update={"parameters": 2 * SMOLLM3.parameters})
    once, twice = (predictions.memory(config, model, GPU, Micro(1)) for model in (SMOLLM3, double))
    layer = 2 * SMOLLM3.parameters // 36 if adapter == "none" else 0  # its weights in bfloat16
    assert twice - once == pytest.approx(bytes_each * SMOLLM3.parameters + layer, rel=1e-4)


def test_smollm3_in_full_on_80_gib() -> None:
    """Full training of SmolLM3-3B on 4,096 tokens fits a GPU of 80 GiB with few activations made again."""
    config = configure(model__dtype="bfloat16")
    needed = [
        predictions.memory(config, SMOLLM3, GPU._replace(fused=fused), Micro(4096, every, accumulates=True)) / 2**30
        for fused, every in ((True, 12), (False, 4), (True, 0), (False, 6))
    ]
    assert max(needed[:2]) < 0.9 * 80 < min(needed[2:])


def test_tokens_take_memory_alike() -> None:
    """Twice the tokens take more memory, and less of it where activations are made again."""
    config = configure()
    once, twice, again = (predictions.memory(config, MILLION, CPU, Micro(*n)) for n in ((64,), (128,), (128, 1)))
    assert once < again < twice


def test_a_piece_of_the_loss() -> None:
    """The prediction knows in what pieces the loss is computed."""
    assert scoring.LOGITS_AT_ONCE["cuda"] == predictions.LOGITS_AT_ONCE


def test_time_is_the_operations_at_the_device_s_rate() -> None:
    """With every layer made again a forward pass is added to forward and backward."""
    config, work = configure(), Work(10, 10 * 4096, 4096)
    plain, again = (predictions.seconds(config, work, SMOLLM3, GPU, every) for every in (0, 1))
    assert plain == flops.of(config, SMOLLM3, work.tokens, work.tokens, 10 * 4096**2) / GPU.flops
    head = 2 * SMOLLM3.vocabulary * SMOLLM3.hidden * work.tokens / GPU.flops  # which is not made again
    assert again - plain + head == pytest.approx(plain / 3)


def test_what_is_not_computed_twice_is_cheaper() -> None:
    """A micro-batch that keeps its activations is better than one of twice the tokens that makes them again."""
    cost = predictions.relative_cost
    assert cost(SMOLLM3, Micro(8192)) < cost(SMOLLM3, Micro(4096)) < cost(SMOLLM3, Micro(8192, 1))
