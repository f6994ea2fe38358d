"""A loopback Hugging Face Hub for tests: real clients read from it and write to it over HTTP.

Repositories live in memory, with their whole history. Xet, buckets, jobs and collections are not there, and card
metadata is not parsed. Spaces, beyond their repositories, are another table of routes: `hub(MORE_ROUTES)`.
The clients read `HF_ENDPOINT` at import, so they run in a child process: `env=hub.environment(home)`.
"""

import json
import os
import re
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import hub_discussions
import hub_lfs
import hub_reads
import hub_writes
from hub_faults import Fault, Faults, first
from hub_model import MAIN, Blob, Refusal, Repo, Request, Response, User, is_lfs

AGENT_HARNESSES = "/api/agent-harnesses"
ACCOUNTS = {
    "hf_write": User("tester", "write", {"acme": "write", "readers": "read"}),
    "hf_read": User("tester", "read"),
    "hf_fine": User("tester", "fineGrained", scopes=("tester/allowed",)),
    "hf_other": User("other", "write"),
}
ROUTES = hub_reads.ROUTES | hub_writes.ROUTES | hub_lfs.ROUTES | hub_discussions.ROUTES
Routes = Mapping[str, Callable[[Request], Any]]
Files = Mapping[str, bytes | Path] | Path


@dataclass
class Hub:
    """A running Hub: `tokens` says who may ask, `requests` holds each "METHOD target" in order of arrival."""

    url: str
    routes: Routes
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # large files, by their hash
    parts: dict[tuple[str, int], bytes] = field(default_factory=dict)  # of large files that are being sent
    tokens: dict[str, User] = field(default_factory=lambda: dict(ACCOUNTS))
    requests: list[str] = field(default_factory=list)
    faults: Faults = field(default_factory=Faults)
    lock: threading.RLock = field(default_factory=threading.RLock)
    ended: threading.Event = field(default_factory=threading.Event)

    def add(self, kind: str, name: str, files: Files, gated: bool = False, private: bool = False) -> str:
        """Commits `files` (a folder, or paths with content) on top of what `main` holds and returns the sha.

        `kind` is model, dataset or space; `gated` and `private` close the content to other namespaces."""
        if isinstance(files, Path):
            files = {p.relative_to(files).as_posix(): p for p in files.rglob("*") if p.is_file()}
        content = {path: c.read_bytes() if isinstance(c, Path) else c for path, c in files.items()}
        with self.lock:
            repo = self.repos.setdefault((kind, name), Repo(kind, name))
            repo.private, repo.gated = private, gated
            new = {path: Blob(c, is_lfs(path, len(c))) for path, c in content.items()}
            self.objects |= {blob.sha256: blob.content for blob in new.values() if blob.lfs}
            before = repo.head.files if repo.refs else {}
            return repo.commit(MAIN, {**before, **new}, "files", name.partition("/")[0]).sha

    def fault(self, times: int, status: int) -> None:
        """Answers the next `times` requests with `status`."""
        self.faults.follow(first(times, Fault("status", status)))

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

    def ask(self, source: str, home: Path, *arguments: str, token: str = "hf_write") -> Any:
        """Run `source` in a Python whose clients use this Hub. Returns the JSON of its last line."""
        command, environment = [sys.executable, "-c", source, *arguments], self.environment(home, token)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])


def answer(hub: Hub, command: str, target: str, headers: Mapping[str, str], body: bytes) -> Response:
    """The Hub's response to one request. They are worked on one at a time: each has all of its effect, or none."""
    url, token = urlsplit(target), headers.get("Authorization", "").removeprefix("Bearer ")
    try:
        if token and token not in hub.tokens:
            raise Refusal(401, "", "Invalid credentials in Authorization header")
        for route, respond in hub.routes.items():
            if match := re.fullmatch(route, f"{command} {url.path}"):
                user, query = hub.tokens.get(token), dict(parse_qsl(url.query))
                with hub.lock:
                    response = respond(Request(hub, user, match.groupdict(), query, headers, body))
                return response if isinstance(response, Response) else Response(response)
        raise Refusal(404, "", f"No such route: {command} {url.path}")
    except Refusal as refusal:
        return refusal.response


class Handler(BaseHTTPRequestHandler):
    """Carries requests from a socket to `answer` and the responses back, and spoils those that have a fault."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self) -> None:
        hub: Hub = self.server.hub
        hub.requests.append(f"{self.command} {self.path}")
        received = self._body()
        # The client's daily look at the agent harnesses uses up no fault.
        fault = None if self.path == AGENT_HARNESSES else hub.faults.next()
        if fault is not None and fault.kind in ("drop", "stalled"):
            self._leave(hub, stalled=fault.kind == "stalled")
            return
        if fault is not None and fault.kind == "status":
            headers = {} if fault.retry_after is None else {"Retry_After": str(fault.retry_after)}
            response = Refusal(fault.status, "", "Fault on demand", **headers).response
        else:
            response = answer(hub, self.command, self.path, self.headers, received)
        if fault is not None and fault.kind == "lost":
            self.close_connection = True
            return
        self._send(response, whole=fault is None or fault.kind == "status")

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _body(self) -> bytes:
        """The request's body, whose length is given, or which comes in chunks. What is cut short is no request."""
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            body = self.rfile.read(length := int(self.headers.get("Content-Length", 0)))
            if len(body) < length:
                raise ConnectionResetError("the client left in the middle of its request")
            return body
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _send(self, response: Response, whole: bool) -> None:
        body = response.body if isinstance(response.body, bytes) else json.dumps(response.body).encode()
        self.send_response(response.status)
        for key, value in {**response.headers, "Content-Length": len(body)}.items():
            self.send_header(key, str(value))
        if whole:
            self.end_headers()
        if self.command != "HEAD" and whole:
            self.wfile.write(body)
        if not whole:  # in the middle of the body; of the headers where there is none
            if body and self.command != "HEAD":
                self.end_headers()
                self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.close_connection = True

    def _leave(self, hub: Hub, stalled: bool) -> None:
        """Close without a word: at once, or when the client has gone."""
        self.close_connection = True
        while stalled and not hub.ended.is_set() and not select.select([self.connection], [], [], 0.1)[0]:
            pass

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed; `Hub.requests` holds the requests."""


class Server(ThreadingHTTPServer):
    """Many clients may knock at once."""

    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed leaves its connections; all else is a fault of this Hub, and shown."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def hub(more_routes: Routes | None = None) -> Iterator[Hub]:
    """A Hub on a free loopback port, which lives as long as the block. `more_routes` come before its own."""
    server = Server(("127.0.0.1", 0), Handler)
    server.hub = Hub(f"http://127.0.0.1:{server.server_port}", {**(more_routes or {}), **ROUTES})
    threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
    try:
        yield server.hub
    finally:
        server.hub.ended.set()
        server.shutdown()
        server.server_close()
