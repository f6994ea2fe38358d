"""The loopback Hub's discussions and pull requests."""

import json
from collections.abc import Callable
from typing import Any

from hub_model import API, DATE, MAIN, Discussion, Refusal, Repo, Request, find_repo, find_to_write


def open_discussion(repo: Repo, title: str, text: str, author: str, is_pull_request: bool) -> Discussion:
    """A new discussion; a pull request begins at the head of `main`."""
    opened = Discussion(len(repo.discussions) + 1, title, author, is_pull_request)
    _say(opened, "comment", author, {"edited": False, "hidden": False, "latest": {"raw": text}})
    repo.discussions.append(opened)
    if is_pull_request:
        repo.refs[f"refs/pr/{opened.num}"] = repo.refs[MAIN]
    return opened


def create(request: Request) -> Any:
    asked, repo = json.loads(request.body), find_to_write(request)
    author = request.user.name if request.user else ""
    is_pr = bool(asked.get("pullRequest"))
    return _told(repo, open_discussion(repo, asked["title"], asked.get("description", ""), author, is_pr))


def listed(request: Request) -> Any:
    repo = find_repo(request)
    found = [_told(repo, one) for one in repo.discussions]
    return {"discussions": found, "count": len(found), "start": 0}


def one(request: Request) -> Any:
    repo = find_repo(request)
    return _told(repo, _find(repo, request))


def merge(request: Request) -> Any:
    """Put the files of a pull request onto `main`: what it changed, over what `main` holds now."""
    repo = find_to_write(request)
    discussion = _find(repo, request)
    if discussion.status not in ("open", "draft"):
        raise Refusal(409, "", f"This pull request is {discussion.status}.")
    branch = repo.commits[repo.refs[f"refs/pr/{discussion.num}"]]
    shared = {commit.sha for commit in repo.history(repo.head)}
    base = next(commit for commit in repo.history(branch) if commit.sha in shared)
    merged = {path: blob for path, blob in repo.head.files.items() if path in branch.files or path not in base.files}
    merged |= {path: blob for path, blob in branch.files.items() if base.files.get(path) != blob}
    author = request.user.name if request.user else ""
    made = repo.commit(MAIN, merged, f"{discussion.title} (#{discussion.num})", author)
    discussion.status, discussion.merged = "merged", made.sha
    _say(discussion, "status-change", author, {"status": "merged"})
    return {}


def comment(request: Request) -> Any:
    discussion, author = _find(find_repo(request), request), request.user.name if request.user else ""
    said = {"edited": False, "hidden": False, "latest": {"raw": json.loads(request.body)["comment"]}}
    return {"newMessage": _say(discussion, "comment", author, said)}


def status(request: Request) -> Any:
    discussion, author = _find(find_to_write(request), request), request.user.name if request.user else ""
    discussion.status = json.loads(request.body)["status"]
    return {"newStatus": _say(discussion, "status-change", author, {"status": discussion.status})}


def _find(repo: Repo, request: Request) -> Discussion:
    number = int(request.part["number"] or 0)
    if not 0 < number <= len(repo.discussions):
        raise Refusal(404, "", f"there is no discussion {number}")
    return repo.discussions[number - 1]


def _say(discussion: Discussion, kind: str, author: str, data: dict[str, Any]) -> dict[str, Any]:
    number = f"{discussion.num}-{len(discussion.events)}"
    event = {"id": number, "type": kind, "createdAt": DATE, "author": {"name": author}, "data": data}
    discussion.events.append(event)
    return event


def _told(repo: Repo, discussion: Discussion) -> dict[str, Any]:
    changes = {"changes": {"base": MAIN, "mergeCommitId": discussion.merged}} if discussion.is_pull_request else {}
    return changes | {
        "num": discussion.num,
        "title": discussion.title,
        "status": discussion.status,
        "isPullRequest": discussion.is_pull_request,
        "author": {"name": discussion.author},
        "createdAt": DATE,
        "repo": {"name": repo.name, "type": repo.kind},
        "filesWithConflicts": [],
        "events": discussion.events,
    }


PLACE = rf"{API}/discussions/(?P<number>\d+)"
ROUTES: dict[str, Callable[[Request], Any]] = {
    rf"POST {API}/discussions": create,
    rf"GET {API}/discussions": listed,
    rf"GET {PLACE}": one,
    rf"POST {PLACE}/merge": merge,
    rf"POST {PLACE}/comment": comment,
    rf"POST {PLACE}/status": status,
}
