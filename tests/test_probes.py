"""General rows and own prompts are asked as the template has it, or refused with their line."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import configure, loaded, problems, resolved, write_rows

from smollm3_ft import probes
from smollm3_ft.errors import ConfigError

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def asked(tiny: Path, **given: Any) -> list[tuple[str, str]]:
    """Of every own prompt its text and its reference, as the model gets them."""
    config = configure(**{key: value for key, value in given.items() if "__" in key})
    found = []
    for row in probes.made(config, tiny)["prompts"]:
        parts = row["input_ids"][: row["answers"][0]], row["input_ids"][row["answers"][0] :]
        prompt, reference = (loaded(tiny).tokenizer.decode(part, skip_special_tokens=False) for part in parts)
        found.append((prompt, reference))
    return found


def test_a_list_of_prompts(tiny: Path) -> None:
    """Each is a user's turn, with the system prompt of the run, and the model is to answer."""
    given = {"evaluate__prompts": ["One?", "Two?"], "data__system_prompt": "Be kind."}
    found = asked(tiny, **given)
    assert [prompt.count("Be kind.") for prompt, _ in found] == [1, 1]
    assert found[1][0].endswith("<|im_start|>user\nTwo?<|im_end|>\n<|im_start|>assistant\n")
    assert [reference for _, reference in found] == ["", ""]


def test_a_text_file_has_a_prompt_a_line(tiny: Path, tmp_path: Path) -> None:
    """Lines without anything in them are none."""
    (tmp_path / "own.txt").write_text("One?\n\nTwo?\n")
    found = asked(tiny, evaluate__prompts=str(tmp_path / "own.txt"))
    assert ["One?" in found[0][0], "Two?" in found[1][0]] == [True, True]
    assert len(found) == 2


def test_rows_bring_tools_thinking_and_references(tiny: Path, tmp_path: Path) -> None:
    """Messages may end with the user's turn, or with an answer, which is the reference."""
    turns = [{"role": "user", "content": "Weather?"}]
    rows = [
        {"messages": turns, "tools": [TOOL], "enable_thinking": True},
        {"prompt": "Capital of France?"},
        {"prompt": "Capital of France?", "completion": "Paris"},
        {"messages": [*turns, {"role": "assistant", "content": "Fine."}, *turns]},
    ]
    found = asked(tiny, evaluate__prompts=str(write_rows(tmp_path / "own.jsonl", rows)))
    assert '"weather"' in found[0][0]
    assert "/think" in found[0][0]
    assert found[1] == (found[2][0], "")
    assert found[2][1].startswith("Paris<|im_end|>")
    assert found[3][0].count("Weather?") == 2
    assert found[3][0].endswith("assistant\n")


@pytest.mark.parametrize("key", ["prompts", "general"])
@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (['{"prompt": "a", "completion": "b"}', '{"prompt": '], r":2: malformed_json"),
        (['{"colour": "red"}'], r":1: unknown_format"),
        ([], "has no rows"),
    ],
)
def test_a_row_that_cannot_be_asked_is_named(
    tiny: Path, tmp_path: Path, key: str, lines: list[str], words: str
) -> None:
    """Two models are compared on all of what is asked: a bad row is an error, with its line, and not left out."""
    place = write_rows(tmp_path / "own.jsonl", lines)
    with pytest.raises(ConfigError, match=words) as caught:
        probes.made(configure(**{f"evaluate__{key}": str(place)}), tiny)
    assert caught.value.problems[0].where == f"evaluate.{key}"


def test_a_file_that_is_not_there(tiny: Path, tmp_path: Path) -> None:
    """It is named, with the kinds that can be read."""
    with pytest.raises(ConfigError, match=r"missing\.txt is no file that can be read; give a file \(\.jsonl"):
        probes.made(configure(evaluate__prompts=str(tmp_path / "missing.txt")), tiny)


def test_every_shipped_general_row_is_asked(tiny: Path) -> None:
    """Each row of `builtin:general` becomes one document with answers in it, and no two are the same."""
    lines = probes.BUILTIN.read_text(encoding="utf-8").splitlines()
    found = probes.made(configure(evaluate__general="builtin:general"), tiny)["general"]
    assert 60 <= len(found) == len(lines) == len(set(lines)) <= 100
    assert all(any(row["mask"]) for row in found)


def test_a_row_longer_than_what_is_trained_on(tiny: Path, tmp_path: Path) -> None:
    """`data.max_length` cuts training rows, and not what is asked."""
    place = write_rows(tmp_path / "own.jsonl", [{"prompt": "Count.", "completion": "1 2 3 4 5 6 7 8 9 " * 20}])
    (row,) = probes.made(configure(evaluate__general=str(place), data__max_length=32), tiny)["general"]
    assert len(row["input_ids"]) > 32


def test_a_run_asks_what_it_asked_before(tiny: Path, tmp_path: Path) -> None:
    """What is asked is written once for a run, whatever becomes of the user's file; another text is another mark."""
    own, kept, again = tmp_path / "own.txt", tmp_path / "kept.json", tmp_path / "again.json"
    config = configure(evaluate__prompts=str(own))
    own.write_text("One?\n")
    probes.write(config, tiny, kept)
    own.write_text("Two?\n")
    before = json.loads(kept.read_text())
    probes.write(config, tiny, kept)
    assert json.loads(kept.read_text()) == before
    probes.write(config, tiny, again)
    assert probes.fingerprint(again) != probes.fingerprint(kept)


def test_files_are_found_by_whoever_evaluates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is named from where the command was typed."""
    monkeypatch.chdir(tmp_path)
    config = resolved("evaluate.prompts=own.txt", "evaluate.general=rows.jsonl")
    assert (config.evaluate.prompts, config.evaluate.general) == (f"{tmp_path}/own.txt", f"{tmp_path}/rows.jsonl")


@pytest.mark.parametrize("key", ["evaluate.prompts", "evaluate.general"])
def test_only_permitted_files_are_asked(tmp_path: Path, key: str) -> None:
    """What a worker lets be read holds for these files too: their lines would be shown."""
    found = problems(f"{key}=/etc/hostname", environment={"SMOLLM3_FT_READ_ROOTS": str(tmp_path)})
    assert [problem.where for problem in found] == [key]
