"""The loopback Hub's write side, and its faults, as the real client sees them."""

from typing import Any, NamedTuple

import pytest
from hub import hub
from hub_faults import Fault, at_random, only

pytestmark = pytest.mark.process

CLIENT = """
import json, sys, threading
from pathlib import Path
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download

api, name, facts = HfApi(), "tester/made", {}

def fact(name, ask):
    try:
        facts[name] = ask()
    except Exception as error:
        response = getattr(error, "response", None)
        facts[name] = type(error).__name__ if response is None else response.status_code

def files(**more):
    return [one.rfilename for one in api.model_info(name, **more).siblings]

def read(path, revision=None):
    return Path(hf_hub_download(name, path, revision=revision)).read_bytes()

def add(text, **more):
    operations = [CommitOperationAdd("note.txt", text.encode())]
    return api.create_commit(name, operations, commit_message=text, **more)

def race(head):
    done = []
    def one(text):
        try:
            add(text, parent_commit=head)
            done.append("committed")
        except Exception as error:
            done.append(error.response.status_code)
    racers = [threading.Thread(target=one, args=[text]) for text in ("this", "that")]
    [racer.start() for racer in racers]
    [racer.join() for racer in racers]
    return sorted(map(str, done))

folder = Path(sys.argv[1])
(folder / "parts").mkdir(parents=True)
(folder / "config.json").write_text("{}")
(folder / "small.safetensors").write_bytes(b"small")
(folder / "parts" / "large.bin").write_bytes(bytes(range(256)) * 10_000)

fact("created", lambda: api.create_repo(name, private=True).repo_id)
fact("again", lambda: api.create_repo(name))
fact("exist_ok", lambda: api.create_repo(name, exist_ok=True).repo_id)
fact("foreign", lambda: api.create_repo("other/theirs"))
fact("of the organisation", lambda: api.create_repo("acme/ours").repo_id)
fact("of one that may be read", lambda: api.create_repo("readers/ours"))
fact("by a reader", lambda: HfApi(token="hf_read").create_repo("tester/no"))
fact("by a fine token", lambda: HfApi(token="hf_fine").create_repo("tester/allowed").repo_id)
fact("by a fine token elsewhere", lambda: HfApi(token="hf_fine").create_repo("tester/elsewhere"))
fact("seen by others", lambda: HfApi(token="hf_other").model_info(name))
fact("uploaded", lambda: api.upload_folder(repo_id=name, folder_path=folder).oid == api.model_info(name).sha)
fact("sent twice", lambda: api.upload_folder(repo_id=name, folder_path=folder).oid == api.model_info(name).sha)
fact("commits", lambda: len(api.list_repo_commits(name)))
fact("files", files)
fact("large", lambda: read("parts/large.bin") == (folder / "parts" / "large.bin").read_bytes())
fact("lfs", lambda: [e.path for e in api.list_repo_tree(name, recursive=True) if getattr(e, "lfs", None)])
head = api.model_info(name).sha
fact("race", lambda: race(head))
fact("stale", lambda: add("stale", parent_commit=head))
fact("deleted", lambda: api.delete_file("config.json", name) and files())
fact("not there", lambda: api.delete_file("none.json", name))
fact("branch", lambda: (api.create_branch(name, branch="draft"), add("drafted", revision="draft"))[0])
fact("on the branch", lambda: (read("note.txt", "draft").decode(), read("note.txt").decode() != "drafted"))
fact("tag", lambda: api.create_tag(name, tag="v1"))
fact("tag again", lambda: api.create_tag(name, tag="v1"))
fact("gone branch", lambda: api.delete_branch(name, branch="draft"))
fact("refs", lambda: [[one.name for one in kind] for kind in (api.list_repo_refs(name).branches,
                                                             api.list_repo_refs(name).tags)])
request = add("proposed", create_pr=True)
fact("not merged", lambda: read("note.txt").decode() != "proposed")
fact("at the request", lambda: read("note.txt", request.pr_revision).decode())
fact("merged", lambda: (api.merge_pull_request(name, request.pr_num), read("note.txt").decode())[1])
fact("status", lambda: api.get_discussion_details(name, request.pr_num).status)
fact("card", lambda: api.upload_file(path_or_fileobj=b"---\\n[\\n---\\n", path_in_repo="README.md", repo_id=name))
fact("public", lambda: (api.update_repo_settings(name, visibility="public"), api.model_info(name).private)[1])
fact("moved", lambda: (api.move_repo(name, "tester/moved"), api.model_info("tester/moved").id)[1])
fact("removed", lambda: (api.delete_repo("tester/moved"), api.repo_exists("tester/moved"))[1])
print(json.dumps(facts, default=str))
"""

FAULTY = """
import json
import httpx2
from huggingface_hub import HfApi, set_client_factory
set_client_factory(lambda: httpx2.Client(timeout=1))
try:
    answer = HfApi().create_repo("tester/new").repo_id
except Exception as error:
    answer = type(error).__name__
print(json.dumps(answer))
"""


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the client saw, one thing after the other."""
    folder = tmp_path_factory.mktemp("written")
    with hub() as server:
        return server.ask(CLIENT, folder / "home", str(folder / "model"))  # type: ignore[no-any-return]


def test_a_repository_is_created_once(facts: dict[str, Any]) -> None:
    """A second creation is a conflict, which carries the address for who is content with that."""
    assert (facts["created"], facts["again"], facts["exist_ok"]) == ("tester/made", 409, "tester/made")
    assert facts["seen by others"] == 404


def test_who_may_write_is_the_tokens_to_say(facts: dict[str, Any]) -> None:
    """A write token writes to its user and organisations, a fine-grained one where it says, a read token nowhere."""
    assert (facts["of the organisation"], facts["by a fine token"]) == ("acme/ours", "tester/allowed")
    refused = ("foreign", "of one that may be read", "by a reader", "by a fine token elsewhere")
    assert [facts[name] for name in refused] == [403] * 4


def test_a_folder_is_uploaded_in_one_commit(facts: dict[str, Any]) -> None:
    """Large files go by their hash, in parts where they are long; the same folder again makes no commit."""
    assert [facts[name] for name in ("uploaded", "sent twice", "large")] == [True] * 3
    assert facts["files"] == [".gitattributes", "config.json", "parts/large.bin", "small.safetensors"]
    assert (facts["commits"], facts["lfs"]) == (2, ["parts/large.bin", "small.safetensors"])


def test_one_of_two_commits_on_the_same_parent_wins(facts: dict[str, Any]) -> None:
    """The other is told that a commit has happened since (412)."""
    assert (facts["race"], facts["stale"]) == (["412", "committed"], 412)


def test_a_file_is_deleted(facts: dict[str, Any]) -> None:
    """One that is not there cannot be."""
    assert "config.json" not in facts["deleted"]
    assert facts["not there"] == 404


def test_branches_and_tags(facts: dict[str, Any]) -> None:
    """What is committed to a branch is there alone; a tag is made once; a branch can go."""
    assert (facts["on the branch"], facts["tag again"]) == (["drafted", True], 409)
    assert (facts["branch"], facts["tag"], facts["refs"]) == (None, None, [["main"], ["v1"]])


def test_a_pull_request_changes_main_when_it_is_merged(facts: dict[str, Any]) -> None:
    """Until then its files are at its own reference."""
    assert (facts["not merged"], facts["at the request"]) == (True, "proposed")
    assert (facts["merged"], facts["status"]) == ("proposed", "merged")


def test_a_card_that_is_no_yaml_is_refused(facts: dict[str, Any]) -> None:
    """The client asks before it uploads."""
    assert facts["card"] == "ValueError"


def test_a_repository_is_opened_moved_and_removed(facts: dict[str, Any]) -> None:
    """Its visibility, its name, and whether it is there."""
    assert (facts["public"], facts["moved"], facts["removed"]) == (False, "tester/moved", False)


class Spoilt(NamedTuple):
    """What the client got from a request that went wrong, and whether the work was done."""

    answer: str
    was_done: bool


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Spoilt]:
    """One request with each kind of fault."""
    found = {}
    for kind in ("status", "drop", "lost", "truncated", "stalled"):
        with hub() as server:
            server.faults.follow(only(1, Fault(kind)))
            answer = server.ask(FAULTY, tmp_path_factory.mktemp("home"))
            found[kind] = Spoilt(answer, ("model", "tester/new") in server.repos)
    return found


def test_each_fault_is_seen_as_what_it_is(spoilt: dict[str, Spoilt]) -> None:
    """A refusal, a broken connection, half an answer, silence."""
    assert spoilt["status"].answer == "HfHubHTTPError"
    assert {spoilt[kind].answer for kind in ("drop", "lost", "truncated")} == {"RemoteProtocolError"}
    assert spoilt["stalled"].answer == "ReadTimeout"


def test_only_a_reply_that_was_lost_or_cut_hides_work(spoilt: dict[str, Spoilt]) -> None:
    """The other faults strike before anything is done."""
    assert {kind for kind, one in spoilt.items() if one.was_done} == {"lost", "truncated"}


def test_random_faults_are_the_same_for_the_same_seed() -> None:
    """Whichever order the requests' numbers are asked in."""
    one, other = at_random(0.05, seed=7), at_random(0.05, seed=7)
    assert [one(number) for number in range(1, 401)] == [other(number) for number in range(400, 0, -1)][::-1]
    assert 10 <= sum(one(number) is not None for number in range(1, 401)) <= 30
