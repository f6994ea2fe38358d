"""What the loopback Hub holds in memory: repositories with commits and references, users, requests, responses."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import unquote

DATE = "2025-01-01T00:00:00.000Z"
MAIN = "refs/heads/main"
LARGE = 10_000_000  # bytes from which a file of any name is an LFS file
LFS = (".safetensors", ".bin", ".pt", ".gguf", ".parquet", ".arrow", ".gz", ".zst", ".zip", ".png", ".jpg")
WRITERS = ("admin", "write", "contributor")


class Blob(NamedTuple):
    """A file's bytes, and whether it is kept as an LFS file."""

    content: bytes
    lfs: bool = False

    @property
    def oid(self) -> str:
        """The id which git gives to a file of this content."""
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class User:
    """The holder of a token. `role` is what the token may do: read, write, or fineGrained, and then in `scopes` alone.

    `orgs` says which role the user has in which organisation; `scopes` are namespaces, or repositories."""

    name: str
    role: str
    orgs: Mapping[str, str] = field(default_factory=dict)
    scopes: tuple[str, ...] = ()

    def reads(self, name: str) -> bool:
        """Whether private repositories of that name are shown to the user."""
        return name.partition("/")[0] in (self.name, *self.orgs)

    def writes(self, name: str) -> bool:
        """Whether the token may write to the repository, or create it."""
        owner = name.partition("/")[0]
        if self.role == "fineGrained":
            return owner in self.scopes or name in self.scopes
        return self.role == "write" and (owner == self.name or self.orgs.get(owner) in WRITERS)


@dataclass(frozen=True)
class Commit:
    """One state of a repository: every path with its file."""

    sha: str
    parent: str | None
    title: str
    author: str
    files: Mapping[str, Blob]


@dataclass
class Discussion:
    """A discussion, or a pull request, whose commits are at `refs/pr/<num>`."""

    num: int
    title: str
    author: str
    is_pull_request: bool
    status: str = "open"
    merged: str | None = None
    events: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Repo:
    """A repository: its commits, what each branch, tag and pull request points to, and how it was created."""

    kind: str
    name: str
    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    discussions: list[Discussion] = field(default_factory=list)
    created: dict[str, Any] = field(default_factory=dict)

    @property
    def head(self) -> Commit:
        return self.commits[self.refs[MAIN]]

    def find(self, revision: str) -> Commit | None:
        """The commit of a branch, tag, reference or sha; none where there is no such."""
        for ref in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if ref in self.refs:
                return self.commits[self.refs[ref]]
        return self.commits.get(revision)

    def commit(self, ref: str, files: Mapping[str, Blob], title: str, author: str) -> Commit:
        """Put a state of all files on top of `ref`, which begins here where there is none."""
        parent = self.refs.get(ref)
        listed = dict(sorted(files.items()))
        told = [self.kind, self.name, str(parent), title, *(f"{path} {blob.oid}" for path, blob in listed.items())]
        commit = Commit(hashlib.sha1("\n".join(told).encode()).hexdigest(), parent, title, author, listed)
        self.commits[commit.sha] = commit
        self.refs[ref] = commit.sha
        return commit

    def history(self, commit: Commit) -> list[Commit]:
        """A commit and those before it, the newest first."""
        found = [commit]
        while found[-1].parent is not None:
            found.append(self.commits[found[-1].parent])
        return found


def is_lfs(path: str, size: int) -> bool:
    return path.endswith(LFS) or size > LARGE


@dataclass(frozen=True)
class Request:
    """One request, with its sender (none without a token) and the named parts of its still encoded path."""

    hub: Any
    user: User | None
    part: Mapping[str, str | None]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def kind(self) -> str:
        return (self.part["kinds"] or "models").removesuffix("s")


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


def find_repo(request: Request, content: bool = False) -> Repo:
    """The repository which the path names, if the sender may know of it (or also read its `content`)."""
    user = request.user
    repo = request.hub.repos.get((request.kind, request.part["name"]))
    insider = repo is not None and user is not None and user.reads(repo.name)
    if repo is None or (repo.private and not insider):
        raise Refusal(404 if user else 401, "RepoNotFound", "Repository not found")
    if content and repo.gated and not insider:
        raise Refusal(403 if user else 401, "GatedRepo", f"Access to {repo.name} is restricted.")
    return repo


def find_to_write(request: Request) -> Repo:
    """The repository which the path names, if the sender's token may write to it."""
    repo = find_repo(request)
    check_may_write(request, repo.name)
    return repo


def check_may_write(request: Request, name: str) -> None:
    if request.user is None or not request.user.writes(name):
        what = f"Forbidden: you must use a write token with access to {name}."
        raise Refusal(403 if request.user else 401, "", what)


def find_commit(request: Request) -> Commit:
    """The commit which the path names by reference or sha; without either, the head of `main`."""
    repo, revision = find_repo(request), unquote(request.part.get("revision") or "main")
    if (commit := repo.find(revision)) is None:
        raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    return commit


NAME, REVISION = r"(?P<name>[^/]+/[^/]+?)", r"(?P<revision>[^/]+)"
API = rf"/api/(?P<kinds>models|datasets|spaces)/{NAME}"
PAGE = rf"/((?P<kinds>datasets|spaces)/)?{NAME}"


def names_a_repo(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]{1,96}", name) is not None
