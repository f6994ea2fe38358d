"""What the loopback Hub does for Spaces, and for the buckets that keep their data. What runs is a test's to say.

What a Space was told stands in its repository's `created`.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import hub_reads
from hub_model import DATE, Refusal, Repo, Request, Response, check_may_write, find_repo, find_to_write

NAME = r"(?P<name>[^/]+/[^/]+)"
SPACE = rf"/api/(?P<kinds>spaces)/{NAME}"
Stage = Callable[[Repo], str]


def secrets(request: Request) -> Any:
    """Their names; values are written and never read back."""
    kept = find_to_write(request).created.setdefault("secrets", {})
    if request.body:
        told = json.loads(request.body)
        kept[told["key"]] = told["value"]
    return {name: {"updatedAt": None} for name in kept}


def variables(request: Request) -> Any:
    kept = find_to_write(request).created.setdefault("variables", {})
    if request.body:
        told = json.loads(request.body)
        kept[told["key"]] = told["value"]
    return {name: {"value": value} for name, value in kept.items()}


def volumes(request: Request) -> Any:
    told = json.loads(request.body)["volumes"]
    for volume in told:
        if volume["type"] == "bucket" and ("bucket", volume["source"]) not in request.hub.repos:
            raise Refusal(404, "RepoNotFound", f"There is no bucket {volume['source']}")
    find_to_write(request).created["volumes"] = told
    return {}


def create_bucket(request: Request) -> Any:
    name = request.part["name"]
    check_may_write(request, name)
    if ("bucket", name) in request.hub.repos:
        return Response({"error": "This bucket is there", "url": f"{request.hub.url}/buckets/{name}"}, 409)
    request.hub.repos["bucket", name] = json.loads(request.body)
    return {"url": f"{request.hub.url}/buckets/{name}"}


def bucket(request: Request) -> Any:
    name = request.part["name"] or ""
    kept = request.hub.repos.get(("bucket", name))
    private = kept is not None and kept["visibility"] == "private"
    if kept is None or (private and not (request.user and request.user.reads(name))):
        raise Refusal(404, "RepoNotFound", f"There is no bucket {name}")
    return {"id": name, "private": private, "createdAt": DATE, "size": 0, "totalFiles": 0}


def logs(request: Request) -> Response:
    """As events, each with a line."""
    lines = find_to_write(request).created.get("log", ())
    return Response("".join(f"data: {json.dumps({'data': line})}\n\n" for line in lines).encode())


def runtime(request: Request, stage: Stage) -> Any:
    repo = find_repo(request)
    return {"stage": stage(repo), "sha": repo.head.sha, "hardware": {"current": "cpu-basic", "requested": "cpu-basic"}}


# A Trackio that takes everything, where a Space's host is the Hub itself.
TRACKIO: Mapping[str, Callable[[Request], Any]] = {
    r"GET /version": lambda _: {"api_version": 1},
    r"POST /api/(bulk_\w+|artifact_log)": lambda _: {"data": None},
    r"POST /api/upload": lambda _: {"paths": ["there"]},
}


def told(request: Request, host: str | Mapping[str, str]) -> Any:
    place = host if isinstance(host, str) else host.get(request.part["name"], "")
    return {**hub_reads.repo_info(request), "host": place}


def routes(
    host: str | Mapping[str, str], stage: Stage = lambda repo: "RUNNING"
) -> Mapping[str, Callable[[Request], Any]]:
    """The routes of Spaces, which answer at `host`, one for all or each at its own, and are as far as `stage` says of
    their repository."""
    return {
        rf"GET {SPACE}/runtime": lambda request: runtime(request, stage),
        rf"GET {SPACE}/logs/(build|run)": logs,
        rf"(GET|POST) {SPACE}/secrets": secrets,
        rf"(GET|POST) {SPACE}/variables": variables,
        rf"PUT {SPACE}/volumes": volumes,
        rf"POST /api/buckets/{NAME}": create_bucket,
        rf"GET /api/buckets/{NAME}": bucket,
        rf"GET {SPACE}": lambda request: told(request, host),
    }
