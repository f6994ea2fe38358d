"""The loopback Hub's large files: announced by hash, sent whole or in parts, checked against the hash."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

from hub_model import PAGE, Refusal, Request, Response, find_to_write

PART = 1_000_000  # bytes; larger files are sent in parts of this size


def batch(request: Request) -> Any:
    """Where each object is to be sent; nowhere, if it is there already."""
    find_to_write(request)
    asked = json.loads(request.body)
    transfer = "multipart" if any(one["size"] > PART for one in asked["objects"]) else "basic"
    return {"transfer": transfer, "objects": [_object(request.hub, **one) for one in asked["objects"]]}


def _object(hub: Any, oid: str, size: int) -> dict[str, Any]:
    told: dict[str, Any] = {"oid": oid, "size": size}
    if oid in hub.objects:
        return told
    place = f"{hub.url}/_lfs/{oid}"
    upload: dict[str, Any] = {"href": place}
    if size > PART:
        parts = {str(n + 1): f"{place}/{n + 1}" for n in range(-(-size // PART))}
        upload = {"href": f"{place}/complete", "header": {"chunk_size": str(PART), **parts}}
    return told | {"actions": {"upload": upload, "verify": {"href": f"{place}/verify"}}}


def put(request: Request) -> Any:
    _keep(request.hub, request.part["oid"] or "", request.body)
    return b""


def put_part(request: Request) -> Response:
    tag = hashlib.md5(request.body).hexdigest()
    request.hub.parts[request.part["oid"], int(request.part["number"] or 0)] = request.body
    return Response(b"", headers={"ETag": f'"{tag}"'})


def complete(request: Request) -> Any:
    """Put the parts together; they must give the object that was announced."""
    oid, asked = request.part["oid"] or "", json.loads(request.body)
    numbers = sorted(part["partNumber"] for part in asked["parts"])
    try:
        content = b"".join(request.hub.parts[oid, number] for number in numbers)
    except KeyError:
        if oid in request.hub.objects:  # asked again, after a lost reply
            return {}
        raise Refusal(400, "", f"a part of {oid} is missing") from None
    _keep(request.hub, oid, content)
    for number in numbers:
        del request.hub.parts[oid, number]
    return {}


def verify(request: Request) -> Any:
    asked = json.loads(request.body)
    content = request.hub.objects.get(asked["oid"])
    if content is None or len(content) != asked["size"]:
        raise Refusal(404, "", f"{asked['oid']} is not there")
    return {}


def _keep(hub: Any, oid: str, content: bytes) -> None:
    if hashlib.sha256(content).hexdigest() != oid:
        raise Refusal(400, "", "the content is not what was announced")
    hub.objects[oid] = content


ROUTES: dict[str, Callable[[Request], Any]] = {
    rf"POST {PAGE}\.git/info/lfs/objects/batch": batch,
    r"PUT /_lfs/(?P<oid>\w+)": put,
    r"PUT /_lfs/(?P<oid>\w+)/(?P<number>\d+)": put_part,
    r"POST /_lfs/(?P<oid>\w+)/complete": complete,
    r"POST /_lfs/(?P<oid>\w+)/verify": verify,
}
