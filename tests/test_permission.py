"""What is said before anything is spent of tokens and repositories, with the real client against the loopback Hub."""

import json
from pathlib import Path

import pytest
from hub import hub
from hub_model import User

pytestmark = pytest.mark.process

CHECK = """
import json, os, sys
from smollm3_ft import hubclient, permission
from smollm3_ft.config import Publish
from smollm3_ft.errors import ConfigError

told = {}
for case, (token, repo, private, owner) in json.loads(sys.argv[1]).items():
    os.environ.update(HF_TOKEN=token, HF_USERNAME=owner)
    try:
        if repo == "base/gated":
            hubclient.insist(lambda: permission.check_model(hubclient.api(), repo), 5.0)
            told[case] = "may be read"
        else:
            told[case] = permission.check(Publish(repo=repo, private=private), "my-run", 5.0)
    except ConfigError as error:
        told[case] = str(error)
print(json.dumps(told))
"""

OURS = {"README.md": b"---\ntags: [smollm3-ft, sft]\n---\n# Mine\n", "model.safetensors": b"1"}
THEIRS = {"README.md": b"---\ntags: [other]\n---\n# Not yours\n", "model.safetensors": b"2"}
# For each case: token, repository, private, HF_USERNAME; and what is said.
CASES = {
    "new": (("hf_write", "tester/new", True, ""), "we may make tester/new"),
    "by the run's name": (("hf_write", None, True, ""), "we may make tester/my-run"),
    "of HF_USERNAME": (("hf_write", "mine", True, "acme"), "we may make acme/mine"),
    "ours": (("hf_write", "tester/ours", True, ""), "we may write to tester/ours"),
    "just made": (("hf_write", "tester/empty", True, ""), "we may write to tester/empty"),
    "fine": (("hf_fine", "tester/allowed", True, ""), "we may make tester/allowed"),
    "public": (
        ("hf_write", "tester/public", True, ""),
        "publish.repo: tester/public is public, and publish.private is",
    ),
    "public as asked": (("hf_write", "tester/public", False, ""), "we may write to tester/public"),
    "not ours": (("hf_write", "tester/theirs", True, ""), "tester/theirs holds a model that smollm3-ft did not make"),
    "no card": (("hf_write", "tester/bare", True, ""), "tester/bare holds a model that smollm3-ft did not make"),
    "a card that is broken": (("hf_write", "tester/broken", True, ""), "holds a model that smollm3-ft did not make"),
    "read token": (("hf_read", "tester/new", True, ""), "HF_TOKEN: this token of tester may only read; make one that"),
    "read token, there": (("hf_read", "tester/ours", True, ""), "HF_TOKEN: this token of tester may only read"),
    "fine, elsewhere": (("hf_fine", "tester/new", True, ""), "this fine-grained token may not write to tester/new"),
    "foreign": (
        ("hf_write", "other/new", True, ""),
        "tester is not in other, the owner of other/new; name tester or acme as the owner",
    ),
    "foreign, there": (("hf_write", "other/open", False, ""), "tester is not in other, the owner of other/open"),
    "reader there": (
        ("hf_write", "readers/new", True, ""),
        "tester may only read in readers, the owner of readers/new",
    ),
    "unknown token": (("hf_gone", "tester/new", True, ""), "HF_TOKEN: the Hub does not know this token; make another"),
    "no token": (
        ("", "tester/new", True, ""),
        "HF_TOKEN: publish.target=hub needs a token that may write; set HF_TOKEN",
    ),
    "no name": (("hf_write", "tester/a--b", True, ""), "publish.repo: tester/a--b is no Hub name"),
    "gated": (("hf_other", "base/gated", True, ""), "model.name: access to base/gated is gated; accept its terms on"),
    "gated, in": (("hf_base", "base/gated", True, ""), "may be read"),
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is said in each case."""
    home: Path = tmp_path_factory.mktemp("home")
    with hub() as server:
        server.tokens["hf_base"] = User("base", "read")
        server.add("model", "tester/ours", OURS, private=True)
        server.add("model", "tester/public", OURS)
        server.add("model", "tester/empty", {".gitattributes": b""}, private=True)
        server.add("model", "tester/theirs", THEIRS, private=True)
        server.add("model", "tester/bare", {"model.safetensors": b"3"}, private=True)
        server.add("model", "tester/broken", {**THEIRS, "README.md": b"---\n- [\n---\n"}, private=True)
        server.add("model", "other/open", OURS)
        server.add("model", "base/gated", THEIRS, gated=True)
        before = {name: repo.head.sha for (_, name), repo in server.repos.items()}
        said = server.ask(CHECK, home, json.dumps({case: given for case, (given, _) in CASES.items()}))
        assert before == {name: repo.head.sha for (_, name), repo in server.repos.items()}
    return dict(said)


@pytest.mark.parametrize("case", CASES)
def test_what_is_said(told: dict[str, str], case: str) -> None:
    """One line, with what to do; and nothing is changed on the Hub by asking."""
    assert CASES[case][1] in told[case]
    assert "\n" not in told[case]
