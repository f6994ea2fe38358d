"""A loopback Hugging Face Hub for tests: real clients read from it over HTTP.

Only reading is served, every file is a regular (non-LFS) file, and card metadata is not parsed.
The clients read `HF_ENDPOINT` at import, so they run in a child process: `env=hub.environment(home)`.
"""

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

DATE = "2025-01-01T00:00:00.000Z"
AGENT_HARNESSES = "/api/agent-harnesses"
ACCOUNTS = {"hf_write": ("tester", "write"), "hf_read": ("tester", "read")}
Files = Mapping[str, bytes | Path] | Path


@dataclass(frozen=True)
class User:
    """The holder of a token; `role` is what the token may do: read or write."""

    name: str
    role: str


@dataclass(frozen=True)
class Commit:
    """One state of a repository: every path with its bytes."""

    sha: str
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class Repo:
    """A repository with its commits, oldest first; the last one is `main`."""

    kind: str
    name: str
    private: bool = False
    gated: bool = False
    commits: tuple[Commit, ...] = ()


@dataclass
class Hub:
    """A running Hub: `tokens` says who may ask, `requests` holds each "METHOD target" in order of arrival."""

    url: str
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    tokens: dict[str, User] = field(default_factory=lambda: {t: User(*who) for t, who in ACCOUNTS.items()})
    requests: list[str] = field(default_factory=list)
    faults: list[int] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, kind: str, name: str, files: Files, gated: bool = False, private: bool = False) -> str:
        """Commits `files` (a folder, or paths with content) on top of what `main` holds and returns the sha.

        `kind` is model, dataset or space; `gated` and `private` close the content to other namespaces."""
        if isinstance(files, Path):
            files = {p.relative_to(files).as_posix(): p for p in files.rglob("*") if p.is_file()}
        content = {path: c.read_bytes() if isinstance(c, Path) else c for path, c in files.items()}
        earlier = self.repos.get((kind, name), Repo(kind, name)).commits
        parent = earlier[-1] if earlier else Commit("", {})
        merged = dict(sorted({**parent.files, **content}.items()))
        listing = [kind, name, parent.sha, *(f"{path} {blob_id(c)}" for path, c in merged.items())]
        commit = Commit(hashlib.sha1("\n".join(listing).encode()).hexdigest(), merged)
        self.repos[kind, name] = Repo(kind, name, private, gated, (*earlier, commit))
        return commit.sha

    def fault(self, times: int, status: int) -> None:
        """Answers the next `times` requests with `status`."""
        self.faults += [status] * times

    def environment(self, home: Path, token: str = "hf_write") -> dict[str, str]:
        """The whole environment of a child process whose clients use this Hub and keep files in `home`."""
        foreign = ("HF_", "HUGGINGFACE", "HUGGING_FACE", "TRANSFORMERS_")
        off = ("XET", "TELEMETRY", "UPDATE_CHECK", "PROGRESS_BARS")
        return {
            **{key: value for key, value in os.environ.items() if not key.startswith(foreign)},
            **{f"HF_HUB_DISABLE_{feature}": "1" for feature in off},
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": token,
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }


@dataclass(frozen=True)
class Request:
    """One request, with its sender (none without a token) and the named parts of its still encoded path."""

    hub: Hub
    user: User | None
    part: Mapping[str, str | None]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    def owns(self, repo: Repo) -> bool:
        """Whether the sender's own namespace holds `repo`."""
        return self.user is not None and repo.name.startswith(f"{self.user.name}/")


class Response(NamedTuple):
    """One response; a body other than bytes is sent as JSON."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] = {}


class Refusal(Exception):
    """Ends a request with an error status and the error headers which the clients read."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        named = {"X_Error_Code": code, "X_Error_Message": message} | headers
        sent = {key.replace("_", "-"): value for key, value in named.items() if value}
        self.response = Response({"error": message}, status, sent)


def blob_id(content: bytes) -> str:
    """The id which git gives to a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def find_repo(request: Request, content: bool = False) -> Repo:
    """The repository which the path names, if the sender may know of it (or also read its `content`)."""
    kind = (request.part["kinds"] or "models").removesuffix("s")
    repo = request.hub.repos.get((kind, request.part["name"]))
    if repo is None or (repo.private and not request.owns(repo)):
        raise Refusal(404 if request.user else 401, "RepoNotFound", "Repository not found")
    if content and repo.gated and not request.owns(repo):
        raise Refusal(403 if request.user else 401, "GatedRepo", f"Access to {repo.name} is restricted.")
    return repo


def find_commit(request: Request) -> Commit:
    """The commit which the path names by branch or by full sha; without either, the head of `main`."""
    commits = find_repo(request).commits
    revision = unquote(request.part["revision"] or "main")
    known = {commit.sha: commit for commit in commits} | {"main": commits[-1], "refs/heads/main": commits[-1]}
    if revision not in known:
        raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    return known[revision]


def entries(commit: Commit) -> list[dict[str, Any]]:
    """Every file and every directory of a commit, by path."""
    folders = {str(p) for path in commit.files for p in PurePosixPath(path).parents if p.name}
    found = [{"type": "directory", "path": p, "oid": blob_id(p.encode()), "size": 0} for p in folders]
    for path, content in commit.files.items():
        found.append({"type": "file", "path": path, "oid": blob_id(content), "size": len(content)})
    return sorted(found, key=lambda entry: entry["path"])


def whoami(request: Request) -> Any:
    if request.user is None:
        raise Refusal(401, "", "Invalid username or password.")
    token = {"displayName": "test", "role": request.user.role}
    account = {"type": "user", "id": request.user.name, "name": request.user.name, "orgs": []}
    return account | {"auth": {"type": "access_token", "accessToken": token}}


def auth_check(request: Request) -> Any:
    """Reading needs access to the repository; writing needs a write token of its namespace."""
    repo = find_repo(request, content=True)
    if request.part["write"] and not (request.owns(repo) and request.user.role == "write"):
        raise Refusal(403 if request.user else 401, "", f"No write access to {repo.name}.")
    return {}


def repo_info(request: Request) -> Any:
    repo, commit = find_repo(request), find_commit(request)
    blobs = {path: {"size": len(c), "blobId": blob_id(c)} for path, c in commit.files.items()}
    detailed = request.query.get("blobs") == "true"
    siblings = [{"rfilename": path} | (blob if detailed else {}) for path, blob in blobs.items()]
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
    return [entry for entry in entries(find_commit(request)) if entry["path"] in paths]


def refs(request: Request) -> Any:
    main = {"name": "main", "ref": "refs/heads/main", "targetCommit": find_commit(request).sha}
    return {"branches": [main], "tags": [], "converts": [], "pullRequests": []}


def resolve(request: Request) -> Response:
    """A file's bytes, or the part of them which one `Range` names."""
    find_repo(request, content=True)
    commit, path = find_commit(request), unquote(request.part["path"])
    if (content := commit.files.get(path)) is None:
        raise Refusal(404, "EntryNotFound", "Entry not found", X_Repo_Commit=commit.sha)
    size = len(content)
    headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{blob_id(content)}"', "Accept-Ranges": "bytes"}
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
    if wanted is None:
        return Response(content, headers=headers)
    start, end = int(wanted[1]), min(size, int(wanted[2] or size) + 1)
    if start >= end:
        raise Refusal(416, "", "Range not satisfiable", Content_Range=f"bytes */{size}")
    return Response(content[start:end], 206, headers | {"Content-Range": f"bytes {start}-{end - 1}/{size}"})


NAME, REVISION = r"(?P<name>[^/]+/[^/]+)", r"(?P<revision>[^/]+)"
API = rf"/api/(?P<kinds>models|datasets|spaces)/{NAME}"
ROUTES: dict[str, Callable[[Request], Any]] = {
    rf"GET {AGENT_HARNESSES}": lambda request: {"standardEnvVars": [], "harnesses": {}},
    r"GET /api/whoami-v2": whoami,
    rf"GET {API}/auth-check(?P<write>/write)?": auth_check,
    rf"GET {API}(/revision/{REVISION})?": repo_info,
    rf"GET {API}/tree/{REVISION}(?P<path>/.*)?": tree,
    rf"POST {API}/paths-info/{REVISION}": paths_info,
    rf"GET {API}/refs(?P<revision>)": refs,
    rf"(GET|HEAD) /((?P<kinds>datasets|spaces)/)?{NAME}/resolve/{REVISION}/(?P<path>.+)": resolve,
}


def answer(hub: Hub, command: str, target: str, headers: Mapping[str, str], body: bytes) -> Response:
    """The Hub's response to one request. The client's daily look at the agent harnesses uses up no fault."""
    url, token = urlsplit(target), headers.get("Authorization", "").removeprefix("Bearer ")
    try:
        with hub.lock:
            if hub.faults and url.path != AGENT_HARNESSES:
                raise Refusal(hub.faults.pop(0), "", "Fault on demand")
        if token and token not in hub.tokens:
            raise Refusal(401, "", "Invalid credentials in Authorization header")
        for route, respond in ROUTES.items():
            if match := re.fullmatch(route, f"{command} {url.path}"):
                user, query = hub.tokens.get(token), dict(parse_qsl(url.query))
                response = respond(Request(hub, user, match.groupdict(), query, headers, body))
                return response if isinstance(response, Response) else Response(response)
        raise Refusal(404, "", f"No such route: {command} {url.path}")
    except Refusal as refusal:
        return refusal.response


class Handler(BaseHTTPRequestHandler):
    """Carries requests from a socket to `answer` and the responses back."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self) -> None:
        hub: Hub = self.server.hub
        hub.requests.append(f"{self.command} {self.path}")
        received = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        response = answer(hub, self.command, self.path, self.headers, received)
        body = response.body if isinstance(response.body, bytes) else json.dumps(response.body).encode()
        self.send_response(response.status)
        for key, value in {**response.headers, "Content-Length": len(body)}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed; `Hub.requests` holds the requests."""


@contextmanager
def hub() -> Iterator[Hub]:
    """A Hub on a free loopback port, which lives as long as the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hub = Hub(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()
