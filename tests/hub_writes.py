"""What the loopback Hub does for who writes: repositories, commits, branches, tags."""

import base64
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from hub_discussions import open_discussion
from hub_model import (
    API,
    MAIN,
    REVISION,
    Blob,
    Refusal,
    Repo,
    Request,
    Response,
    check_may_write,
    find_repo,
    find_to_write,
    is_lfs,
    names_a_repo,
)

ATTRIBUTES = {".gitattributes": Blob(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n")}


def create_repo(request: Request) -> Any:
    """A new repository with its first commit; 409, with its address, where the name is taken."""
    asked = json.loads(request.body)
    if request.user is None:
        raise Refusal(401, "", "Invalid username or password.")
    kind, owner = asked.get("type", "model"), asked.get("organization") or request.user.name
    name = f"{owner}/{asked['name']}"
    if not names_a_repo(name):
        raise Refusal(400, "", f"Invalid repository name {name}")
    url = f"{request.hub.url}/{'' if kind == 'model' else kind + 's/'}{name}"
    check_may_write(request, name)
    if (kind, name) in request.hub.repos:
        return Response({"error": "You already created this repo", "url": url}, 409)
    repo = Repo(kind, name, private=asked.get("visibility") == "private", created=asked)
    repo.commit(MAIN, ATTRIBUTES, "initial commit", request.user.name)
    request.hub.repos[kind, name] = repo
    return {"url": url, "id": name, "name": name}


def delete_repo(request: Request) -> Any:
    asked = json.loads(request.body)
    kind = asked.get("type") or "model"
    owner = asked.get("organization") or (request.user.name if request.user else "")
    name = f"{owner}/{asked['name']}"
    if (kind, name) not in request.hub.repos:
        raise Refusal(404, "RepoNotFound", "Repository not found")
    check_may_write(request, name)
    del request.hub.repos[kind, name]
    return {}


def move_repo(request: Request) -> Any:
    asked = json.loads(request.body)
    kind, before, after = asked.get("type") or "model", asked["fromRepo"], asked["toRepo"]
    for name in (before, after):
        check_may_write(request, name)
    if (kind, after) in request.hub.repos:
        raise Refusal(409, "", f"{after} exists")
    repo = request.hub.repos.pop((kind, before))
    repo.name = after
    request.hub.repos[kind, after] = repo
    return {}


def settings(request: Request) -> Any:
    repo, asked = find_to_write(request), json.loads(request.body)
    repo.private = asked.get("visibility", "private" if repo.private else "public") == "private"
    repo.gated = bool(asked.get("gated", repo.gated))
    return {"private": repo.private, "gated": repo.gated}


def validate_yaml(request: Request) -> Any:
    """A card's head must be YAML between two lines of dashes, and a mapping."""
    import yaml

    content = json.loads(request.body)["content"]
    head = content.split("---\n")[1] if content.startswith("---\n") else ""
    try:
        problem = "" if isinstance(yaml.safe_load(head) or {}, dict) else "the metadata is no mapping"
    except yaml.YAMLError as error:
        problem = str(error)
    found = [{"message": problem}] if problem else []
    return Response({"errors": found, "warnings": []}, 400 if found else 200)


def preupload(request: Request) -> Any:
    """How each file is to be sent, and the id of what is there under its path now."""
    repo = find_to_write(request)
    there = _files(repo, request)
    told = []
    for file in json.loads(request.body)["files"]:
        path = file["path"]
        large = is_lfs(path, file["size"])
        known = {"oid": there[path].sha256 if large else there[path].oid} if path in there else {}
        told.append({"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False} | known)
    return {"files": told}


def commit(request: Request) -> Any:
    """Files added and deleted on top of a branch, all or none; 412 where `parentCommit` is not its head any more."""
    repo = find_to_write(request)
    lines = [json.loads(line) for line in request.body.splitlines() if line.strip()]
    header = next(line["value"] for line in lines if line["key"] == "header")
    parent = header.get("parentCommit")
    ref = _ref(repo, request)
    makes_pr = request.query.get("create_pr") == "1"
    if parent is not None and parent != repo.refs[ref]:
        raise Refusal(412, "", "A commit has happened since. Please refresh and try again.")
    files = dict(_files(repo, request))
    for line in lines:
        _apply(files, line["key"], line["value"], request)
    author = request.user.name if request.user else ""
    answer: dict[str, Any] = {}
    if makes_pr:
        discussion = open_discussion(repo, header["summary"], header.get("description", ""), author, True)
        ref = f"refs/pr/{discussion.num}"
        answer["pullRequestUrl"] = f"{_page(request, repo)}/discussions/{discussion.num}"
    made = repo.commit(ref, files, header["summary"], author)
    return answer | {"success": True, "commitOid": made.sha, "commitUrl": f"{_page(request, repo)}/commit/{made.sha}"}


def _apply(files: dict[str, Blob], what: str, value: dict[str, Any], request: Request) -> None:
    """One line of a commit."""
    if what == "file":
        files[value["path"]] = Blob(base64.b64decode(value["content"]))
    elif what == "lfsFile":
        if value["oid"] not in request.hub.objects:
            raise Refusal(400, "", f"LFS pointer of {value['path']} points to a file that does not exist")
        files[value["path"]] = Blob(request.hub.objects[value["oid"]], lfs=True)
    elif what in ("deletedFile", "deletedFolder"):
        inside = value["path"].rstrip("/") + "/" if what == "deletedFolder" else None
        gone = [path for path in files if path == value["path"] or (inside and path.startswith(inside))]
        if not gone:
            raise Refusal(404, "EntryNotFound", "A file with this name doesn't exist")
        for path in gone:
            del files[path]


def create_branch(request: Request) -> Any:
    repo, ref = find_to_write(request), f"refs/heads/{unquote(request.part['revision'] or '')}"
    start = json.loads(request.body or b"{}").get("startingPoint", "main")
    if ref in repo.refs:
        raise Refusal(409, "", f"Reference already exists: {ref}")
    if (begun := repo.find(start)) is None:
        raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {start}")
    repo.refs[ref] = begun.sha
    return {}


def create_tag(request: Request) -> Any:
    """A tag on the revision which the path names."""
    repo, tag = find_to_write(request), json.loads(request.body)["tag"]
    if f"refs/tags/{tag}" in repo.refs:
        raise Refusal(409, "", f"Tag reference exists already: {tag}")
    if (target := repo.find(unquote(request.part["revision"] or "main"))) is None:
        raise Refusal(404, "RevisionNotFound", "Invalid rev id")
    repo.refs[f"refs/tags/{tag}"] = target.sha
    return {}


def delete_ref(request: Request) -> Any:
    kind = {"branch": "heads", "tag": "tags"}[request.part["what"] or ""]
    ref = f"refs/{kind}/{unquote(request.part['revision'] or '')}"
    repo = find_to_write(request)
    if ref not in repo.refs or ref == MAIN:
        raise Refusal(404, "RevisionNotFound", f"No such reference: {ref}")
    del repo.refs[ref]
    return {}


def _ref(repo: Repo, request: Request) -> str:
    """The reference which the path names, in full."""
    revision = unquote(request.part["revision"] or "main")
    ref = revision if revision.startswith("refs/") else f"refs/heads/{revision}"
    if ref not in repo.refs:
        raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    return ref


def _files(repo: Repo, request: Request) -> dict[str, Blob]:
    return dict(repo.commits[repo.refs[_ref(repo, request)]].files)


def _page(request: Request, repo: Repo) -> str:
    find_repo(request)
    return f"{request.hub.url}/{'' if repo.kind == 'model' else repo.kind + 's/'}{repo.name}"


ROUTES: dict[str, Callable[[Request], Any]] = {
    r"POST /api/repos/create": create_repo,
    r"DELETE /api/repos/delete": delete_repo,
    r"POST /api/repos/move": move_repo,
    r"POST /api/validate-yaml": validate_yaml,
    rf"PUT {API}/settings": settings,
    rf"POST {API}/preupload/{REVISION}": preupload,
    rf"POST {API}/commit/{REVISION}": commit,
    rf"POST {API}/branch/{REVISION}": create_branch,
    rf"POST {API}/tag/{REVISION}": create_tag,
    rf"DELETE {API}/(?P<what>branch|tag)/{REVISION}": delete_ref,
}
