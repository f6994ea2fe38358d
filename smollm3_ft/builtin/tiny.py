"""``builtin:tiny``: an untrained SmolLM3 of about one million parameters, made on the spot from a fixed seed.

Needs neither torch nor transformers, and writes the same bytes each time.
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from smollm3_ft.builtin import demo

HERE = Path(__file__).parent

VOCAB = 1536
SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>")
THINK = ("<think>", "</think>")
BOS, EOS = "<|begin_of_text|>", "<|im_end|>"
BOS_ID, EOS_ID = SPECIAL.index(BOS), SPECIAL.index(EOS)  # the special tokens come first

# SmolLM3's own pattern: contractions, words with their leading space, up to three digits, punctuation, space.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

HIDDEN, LAYERS, HEADS, KV_HEADS, INTERMEDIATE, CONTEXT = 128, 4, 4, 2, 384, 2048
HEAD = HIDDEN // HEADS
STD = 0.07
SEED = 3


def strings(value: object) -> Iterator[str]:
    """Every string value in a row, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def corpus() -> list[str]:
    """The strings of the demo training files, sorted, and the paragraphs of the shipped prose."""
    # Repeated strings stay in: that is what makes most answers a token or two long.
    found = [
        text
        for file in demo.FOLDER.glob("train-*.jsonl")
        for row in file.read_text(encoding="utf-8").splitlines()
        for text in strings(json.loads(row))
    ]
    return sorted(found) + (HERE / "text.txt").read_text(encoding="utf-8").splitlines()


def tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE trained on the texts; the special tokens come first, the thinking tags last."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(THINK),
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    made.add_tokens([AddedToken(token, special=False, normalized=False) for token in THINK])
    return made


def weights() -> dict[str, NDArray[np.float32]]:
    """Normal draws for the matrices and ones for the norms, under the names of SmolLM3ForCausalLM."""
    # RandomState, unlike default_rng, promises the same stream in every numpy version.
    random = np.random.RandomState(SEED)

    def matrix(rows: int, columns: int) -> NDArray[np.float32]:
        return (STD * random.standard_normal((rows, columns))).astype(np.float32)

    made = {"model.embed_tokens.weight": matrix(VOCAB, HIDDEN)}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        made[at + "self_attn.q_proj.weight"] = matrix(HEADS * HEAD, HIDDEN)
        made[at + "self_attn.k_proj.weight"] = matrix(KV_HEADS * HEAD, HIDDEN)
        made[at + "self_attn.v_proj.weight"] = matrix(KV_HEADS * HEAD, HIDDEN)
        made[at + "self_attn.o_proj.weight"] = matrix(HIDDEN, HEADS * HEAD)
        made[at + "mlp.gate_proj.weight"] = matrix(INTERMEDIATE, HIDDEN)
        made[at + "mlp.up_proj.weight"] = matrix(INTERMEDIATE, HIDDEN)
        made[at + "mlp.down_proj.weight"] = matrix(HIDDEN, INTERMEDIATE)
        made[at + "input_layernorm.weight"] = np.ones(HIDDEN, np.float32)
        made[at + "post_attention_layernorm.weight"] = np.ones(HIDDEN, np.float32)
    made["model.norm.weight"] = np.ones(HIDDEN, np.float32)
    return made


def config() -> dict[str, object]:
    """The model's config.json: SmolLM3 with tied embeddings and no rotary positions in every fourth layer."""
    return {
        "architectures": ["SmolLM3ForCausalLM"],
        "model_type": "smollm3",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "initializer_range": STD,
        "max_position_embeddings": CONTEXT,
        "rope_parameters": {"rope_type": "default", "rope_theta": 2000000.0},
        "no_rope_layer_interval": 4,
        "no_rope_layers": [int((layer + 1) % 4 != 0) for layer in range(LAYERS)],
        "layer_types": ["full_attention"] * LAYERS,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "use_cache": True,
        "use_sliding_window": False,
        "sliding_window": None,
        "dtype": "float32",
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "pad_token_id": EOS_ID,
    }


def tokenizer_config() -> dict[str, object]:
    """The tokenizer_config.json; as in SmolLM3 the end of a turn is both the end and the padding token."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": EOS,
        "additional_special_tokens": ["<|end_of_text|>", "<|im_start|>"],
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": CONTEXT,
    }


def write_json(file: Path, value: dict[str, object]) -> None:
    """The value as indented JSON with a final newline."""
    file.write_bytes((json.dumps(value, indent=2) + "\n").encode())


def build(folder: Path) -> None:
    """Fills an existing empty folder with all that ``from_pretrained`` needs, the same bytes each time."""
    (folder / "tokenizer.json").write_bytes(tokenizer(corpus(), VOCAB).to_str(pretty=True).encode())
    write_json(folder / "tokenizer_config.json", tokenizer_config())
    shutil.copyfile(HERE / "chat_template.jinja", folder / "chat_template.jinja")
    write_json(folder / "config.json", config())
    write_json(
        folder / "generation_config.json",
        {"bos_token_id": BOS_ID, "do_sample": False, "eos_token_id": EOS_ID, "pad_token_id": EOS_ID},
    )
    save_file(weights(), folder / "model.safetensors", metadata={"format": "pt"})
