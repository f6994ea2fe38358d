"""What the loopback Hub answers to who reads: repositories, trees, files, references."""

import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote

from hub_model import (
    API,
    DATE,
    PAGE,
    REVISION,
    Blob,
    Commit,
    Refusal,
    Request,
    Response,
    find_commit,
    find_repo,
)


def entry(path: str, blob: Blob) -> dict[str, Any]:
    """A file as trees and path lists show it."""
    told = {"type": "file", "path": path, "oid": blob.oid, "size": len(blob.content)}
    return told | ({"lfs": pointer(blob)} if blob.lfs else {})


def pointer(blob: Blob) -> dict[str, Any]:
    return {"oid": blob.sha256, "sha256": blob.sha256, "size": len(blob.content), "pointerSize": 134}


def entries(commit: Commit) -> list[dict[str, Any]]:
    """Every file and every directory of a commit, by path."""
    folders = {str(p) for path in commit.files for p in PurePosixPath(path).parents if p.name}
    found = [{"type": "directory", "path": p, "oid": Blob(p.encode()).oid, "size": 0} for p in folders]
    found += [entry(path, blob) for path, blob in commit.files.items()]
    return sorted(found, key=lambda one: one["path"])


def whoami(request: Request) -> Any:
    user = request.user
    if user is None:
        raise Refusal(401, "", "Invalid username or password.")
    token: dict[str, Any] = {"displayName": "test", "role": user.role}
    if user.role == "fineGrained":
        entities = [{"type": "model" if "/" in scope else "user", "name": scope} for scope in user.scopes]
        token["fineGrained"] = {"scoped": [{"entity": one, "permissions": ["repo.write"]} for one in entities]}
    orgs = [{"type": "org", "name": org, "roleInOrg": role} for org, role in user.orgs.items()]
    account = {"type": "user", "id": user.name, "name": user.name, "orgs": orgs}
    return account | {"auth": {"type": "access_token", "accessToken": token}}


def auth_check(request: Request) -> Any:
    """Reading needs access to the repository; writing needs a token which may write to it."""
    repo = find_repo(request, content=True)
    if request.part["write"] and not (request.user and request.user.writes(repo.name)):
        raise Refusal(403 if request.user else 401, "", f"No write access to {repo.name}.")
    return {}


def repo_info(request: Request) -> Any:
    repo, commit = find_repo(request), find_commit(request)
    detailed = request.query.get("blobs") == "true"
    siblings = []
    for path, blob in commit.files.items():
        details = {"size": len(blob.content), "blobId": blob.oid} | ({"lfs": pointer(blob)} if blob.lfs else {})
        siblings.append({"rfilename": path} | (details if detailed else {}))
    about = {"id": repo.name, "sha": commit.sha, "siblings": siblings, "tags": [], "lastModified": DATE}
    access = {"private": repo.private, "gated": "manual" if repo.gated else False, "disabled": False}
    runtime = {"stage": "RUNNING", "hardware": {"current": "cpu-basic", "requested": "cpu-basic"}}
    space = {"sdk": "gradio", "subdomain": repo.name.replace("/", "-").lower(), "runtime": runtime}
    return about | access | {"downloads": 0, "likes": 0} | (space if repo.kind == "space" else {})


def tree(request: Request) -> Any:
    """The entries of a directory, or of all that lies below it when `recursive` is on."""
    commit, folder = find_commit(request), unquote(request.part["path"] or "").strip("/")
    found = [e for e in entries(commit) if PurePosixPath(folder) in PurePosixPath(e["path"]).parents]
    if folder and not found:
        raise Refusal(404, "EntryNotFound", f"{folder} does not exist", X_Repo_Commit=commit.sha)
    deep = request.query.get("recursive") == "true"
    return [e for e in found if deep or PurePosixPath(e["path"]).parent == PurePosixPath(folder)]


def paths_info(request: Request) -> Any:
    """The entries of the paths which the form names; unknown paths are left out."""
    paths = parse_qs(request.body.decode()).get("paths", [])
    return [one for one in entries(find_commit(request)) if one["path"] in paths]


def refs(request: Request) -> Any:
    found: dict[str, list[Any]] = {"branches": [], "tags": [], "converts": []}
    kinds = {"heads": "branches", "tags": "tags", "pr": "pullRequests"}
    if request.query.get("include_prs"):
        found["pullRequests"] = []
    for ref, sha in find_repo(request).refs.items():
        _, kind, name = ref.split("/", 2)
        if kinds[kind] in found:
            found[kinds[kind]].append({"name": name, "ref": ref, "targetCommit": sha})
    return found


def commits(request: Request) -> Any:
    """The history of a revision, the newest first."""
    told = find_repo(request).history(find_commit(request))
    return [
        {"id": one.sha, "title": one.title, "message": "", "authors": [{"user": one.author}], "date": DATE}
        for one in told
    ]


def resolve(request: Request) -> Response:
    """A file's bytes, or the part of them which one `Range` names."""
    find_repo(request, content=True)
    commit, path = find_commit(request), unquote(request.part["path"] or "")
    if (blob := commit.files.get(path)) is None:
        raise Refusal(404, "EntryNotFound", "Entry not found", X_Repo_Commit=commit.sha)
    content, size = blob.content, len(blob.content)
    headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{blob.oid}"', "Accept-Ranges": "bytes"}
    if blob.lfs:
        headers |= {"ETag": f'"{blob.sha256}"', "X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(size)}
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
    if wanted is None:
        return Response(content, headers=headers)
    start, end = int(wanted[1]), min(size, int(wanted[2] or size) + 1)
    if start >= end:
        raise Refusal(416, "", "Range not satisfiable", Content_Range=f"bytes */{size}")
    return Response(content[start:end], 206, headers | {"Content-Range": f"bytes {start}-{end - 1}/{size}"})


ROUTES: dict[str, Callable[[Request], Any]] = {
    r"GET /api/agent-harnesses": lambda request: {"standardEnvVars": [], "harnesses": {}},
    r"GET /api/whoami-v2": whoami,
    rf"GET {API}/auth-check(?P<write>/write)?": auth_check,
    rf"GET {API}(/revision/{REVISION})?": repo_info,
    rf"GET {API}/tree/{REVISION}(?P<path>/.*)?": tree,
    rf"POST {API}/paths-info/{REVISION}": paths_info,
    rf"GET {API}/refs": refs,
    rf"GET {API}/commits/{REVISION}": commits,
    rf"(GET|HEAD) {PAGE}/resolve/{REVISION}/(?P<path>.+)": resolve,
}
