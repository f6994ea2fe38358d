"""Recipes for models and datasets on the Hub: they load and plan, here against a loopback stand-in."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub import Hub, hub
from pairs_of_the_demo import capitals

from smollm3_ft.builtin import tiny

pytestmark = pytest.mark.process

ROOT = Path(__file__).parent.parent
PART, LONG = "smoltalk_smollm3_smol_magpie_ultra_no_think", "LongAlign_64k_context_lang_annotated_lang_6_no_think"
AT_ONCE = "llama_3.1_tulu_3_8b_preference_mixture_no_think"
THOUGHT = "tulu_3_8b_pref_mix_Qwen3_32B_Qwen3_0.6B_think"
# As in the real dataset, each part is a split, and none is called train.
CARD = f"""---
configs:
- config_name: SFT
  data_files:
  - split: {PART}
    path: part.jsonl
  - split: {LONG}
    path: long.jsonl
- config_name: Preference
  data_files:
  - split: {AT_ONCE}
    path: preference/at_once.jsonl
  - split: {THOUGHT}
    path: preference/thought.jsonl
---
"""
CLASSIC = """---
configs:
- config_name: all
  data_files: train.jsonl
- config_name: smol-rewrite
  data_files: rewrite.jsonl
---
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A Hub with a small model and a dataset under the names that the recipes use."""
    folder = tmp_path_factory.mktemp("model")
    tiny.build(folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "max_position_embeddings": 65536}))
    rows = [
        {"messages": [{"role": "user", "content": f"Say {n}"}, {"role": "assistant", "content": f"{n}"}]}
        for n in range(50)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    with hub() as running:
        running.add("model", "HuggingFaceTB/SmolLM3-3B", folder)
        running.add("model", "other/gated", folder, gated=True)
        pairs = "".join(json.dumps(row) + "\n" for row in capitals()).encode()
        data = dict.fromkeys(("part.jsonl", "long.jsonl"), lines)
        data |= dict.fromkeys(("preference/at_once.jsonl", "preference/thought.jsonl"), pairs)
        running.add("dataset", "HuggingFaceTB/smoltalk2", {"README.md": CARD.encode(), **data})
        data = {"README.md": CLASSIC.encode(), "train.jsonl": lines, "rewrite.jsonl": lines}
        running.add("dataset", "HuggingFaceTB/smoltalk", data)
        yield running


def plan(server: Hub, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`--plan` with the stand-in as the Hub."""
    command = [sys.executable, "-m", "flows.finetune", "--plan", f"runs_dir={home / 'runs'}", *words]
    environment = {**server.environment(home), "COLUMNS": "200"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("recipe", "source"),
    [
        ("sft_full", "smoltalk2 / SFT"),
        ("sft_lora", "smoltalk2 / SFT"),
        ("sft_long_context", "smoltalk2 / SFT"),
        ("classic", "smoltalk / all"),
        ("dpo", "smoltalk2 / Preference"),
        ("apo", "smoltalk2 / Preference"),
    ],
)
def test_a_hub_recipe_plans_with_pinned_revisions(server: Hub, tmp_path: Path, recipe: str, source: str) -> None:
    """The plan names the commits of model and dataset, and no weights were fetched for it."""
    server.requests.clear()
    done = plan(server, tmp_path, recipe)
    assert done.returncode == 0, done.stderr
    assert "HuggingFaceTB/SmolLM3-3B at " in done.stdout
    assert f"HuggingFaceTB/{source} at " in done.stdout
    assert not [request for request in server.requests if "model.safetensors" in request]


def test_qlora_plans(server: Hub, tmp_path: Path) -> None:
    """The recipe of four bits is planned without a GPU, where bitsandbytes is installed."""
    done = plan(server, tmp_path, "sft_qlora")
    assert done.returncode == 0, done.stderr


def test_a_missing_configuration_is_answered_with_the_list(server: Hub, tmp_path: Path) -> None:
    """A dataset with several configurations needs one named."""
    done = plan(server, tmp_path, "sft_full", "data.config=none")
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "data.config: HuggingFaceTB/smoltalk2 has several configurations; choose one of SFT, Preference"
    )


def test_an_unknown_model_is_named(server: Hub, tmp_path: Path) -> None:
    """One line, and what to check."""
    done = plan(server, tmp_path, "model.name=tester/nothing")
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "model.name: the Hub has no tester/nothing; check the spelling; a private one needs HF_TOKEN"
    )


def test_an_unknown_split_is_answered_with_the_list(server: Hub, tmp_path: Path) -> None:
    """The splits that there are."""
    done = plan(server, tmp_path, "sft_full", "data.split=tain")
    assert done.returncode == 2
    assert f"data.split: HuggingFaceTB/smoltalk2 has no split tain; it has {PART}, {LONG}" in done.stderr
