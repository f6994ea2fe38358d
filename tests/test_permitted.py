"""What a machine's environment lets a run do: anything else is one clear line, whoever asks for it."""

from pathlib import Path

import pytest
from conftest import problems, resolved

from smollm3_ft import layers, permitted
from smollm3_ft.config import Config


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment that permits one folder to be read, and another folder, in which the command is typed."""
    for name in ("allowed/rows.jsonl", "allowed/model/config.json", "here/rows.jsonl", "here/model/config.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    (tmp_path / "allowed" / "link").symlink_to(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return {"SMOLLM3_FT_READ_ROOTS": str(tmp_path / "allowed")}


@pytest.mark.parametrize(
    "word",
    [
        "data.source={root}/rows.jsonl",
        "data.source={root}/*.jsonl",
        "data.source=../allowed/rows.jsonl",
        "data.source=owner/set",
        "data.source=builtin:demo",
        "model.name={root}/model",
        "model.name=owner/model",
    ],
)
def test_what_may_be_read(roots: dict[str, str], word: str) -> None:
    """What lies in the permitted folders, comes from the Hub or is built in may be read."""
    assert resolved(word.format(root=roots["SMOLLM3_FT_READ_ROOTS"]), environment=roots).recipe == "demo"


@pytest.mark.parametrize(
    "word",
    [
        "data.source=rows.jsonl",
        "data.source={root}/../here/rows.jsonl",
        "data.source={root}/link/rows.jsonl",
        "data.source={root}/lin[k]/rows.jsonl",
        "data.source={root}/*/*.jsonl",
        "data.source={root}/../here/*.jsonl",
        "data.source=/etc/*.json",
        "data.source=*.jsonl",
        "data.source=~/*.jsonl",
        "data.source=[{{source: builtin:demo}}, {{source: rows.jsonl}}]",
        "model.name=model",
        "model.name=/etc",
    ],
)
def test_what_may_not_be_read(roots: dict[str, str], word: str) -> None:
    """Whatever the way that leads there, what lies outside of the permitted folders may not be read."""
    (problem,) = problems(word.format(root=roots["SMOLLM3_FT_READ_ROOTS"]), environment=roots)
    assert problem.where == word.partition("=")[0]
    assert "may not be read here" in problem.what


def test_everything_may_be_read_where_nothing_is_said(roots: dict[str, str]) -> None:
    """Without the variable, a run reads what its user names."""
    assert resolved("data.source=rows.jsonl", "model.name=model").data.source == str(Path("rows.jsonl").absolute())


ASKS = [
    ("publish.repo", "publish.target=hub", "publish.repo=acme/model"),
    ("publish.demo_space", "publish.demo_space=acme/space"),
    ("monitor.dataset", "monitor.dataset=acme/trackio-experiments"),
    ("monitor.trackio", "monitor.trackio=acme/trackio"),
]


@pytest.mark.parametrize(("owners", "refused"), [("", False), ("mine, acme", False), ("mine,other", True)])
@pytest.mark.parametrize(("key", "words"), [(key, words) for key, *words in ASKS])
def test_who_may_be_published_to(key: str, words: list[str], owners: str, refused: bool) -> None:
    """Only the permitted owners, and anyone where nothing is said."""
    asked = Config.model_validate(layers.parse_words(words))
    found = permitted.refused(asked, {"SMOLLM3_FT_PUBLISH_OWNERS": owners})
    said = f"{key}: what belongs to acme may not be published here; allowed are the owners mine, other"
    assert (said in map(str, found)) == refused


@pytest.mark.parametrize(("username", "said"), [("acme", "belongs to acme"), ("", "names no owner"), ("mine", None)])
def test_a_repository_without_an_owner_is_the_users(username: str, said: str | None) -> None:
    """It is published under `HF_USERNAME`, which is then what has to be permitted."""
    environment = {"SMOLLM3_FT_PUBLISH_OWNERS": "mine", "HF_USERNAME": username}
    asked = Config.model_validate({"publish": {"target": "hub"}})
    found = [one for one in permitted.refused(asked, environment) if one.where == "publish.repo"]
    assert [said in one.what and "allowed are the owners mine" in one.remedy for one in found] == [True] * bool(said)


def test_code_of_others_is_refused_unless_it_is_permitted() -> None:
    """In one line, which says what permits it."""
    (problem,) = problems("model.trust_remote_code=true")
    assert str(problem) == (
        "model.trust_remote_code: code from a model's repository may not be run here; "
        "SMOLLM3_FT_ALLOW_REMOTE_CODE=1 permits it"
    )
    (problem,) = problems("model.trust_remote_code=true", environment={"SMOLLM3_FT_ALLOW_REMOTE_CODE": "0"})
    assert "may not be run here" in problem.what
