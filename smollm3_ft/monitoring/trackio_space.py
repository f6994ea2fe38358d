"""A Hugging Face Space that runs Trackio: made where there is none, finished where its making was cut short, reused.

Its data lie in a bucket of the same owner, `<space>-bucket`, mounted at /data: a Space's own disk is emptied whenever
it restarts. Of secrets it gets two: TRACKIO_WRITE_TOKEN, a random one where none is given, and, as `HF_TOKEN`, which
is the name that Trackio reads, TRACKIO_SPACE_TOKEN where there is one. Never the user's own token; that is why
Trackio's own `deploy_as_space`, which copies it, is not used. After a training HF_READ_TOKEN, where there is one, takes
the place of TRACKIO_SPACE_TOKEN.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.resources
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from smollm3_ft import hubclient
from smollm3_ft.errors import ConfigError, HubUnreachable, Undelivered

MADE = "app.py"  # comes in one commit with all other files when everything else is set: where it is, nothing is missing
FRESH = {"README.md", ".gitattributes"}  # what the Hub puts into a new Space
MOUNT = "/data"
PATIENCE = 30.0  # seconds in which the Hub is asked; then again with the next delivery


@functools.lru_cache(maxsize=4)
def address(space: str, private: bool) -> str:
    """Where the Space answers, without a slash at the end; it is made where there is none.

    Raises Undelivered, and asks again the next time.
    """
    if own_token() is None:
        raise Undelivered(f"the Space {space} needs a token that may write to it", "set HF_TOKEN, or `hf auth login`")
    with _said(space):
        found = hubclient.insist(lambda: _found_or_made(space, private), PATIENCE)
    if found.sdk == "static":
        raise Undelivered(f"the Space {space} is frozen: it only shows", "name another one")
    if private and not found.private:
        remedy = "make it private on the Hub, or set monitor.private=false"
        raise Undelivered(f"the Space {space} is public, and monitor.private is true", remedy)
    host: str = found.host or f"https://{found.subdomain}.hf.space"
    return host.rstrip("/")


@contextmanager
def _said(space: str) -> Iterator[None]:
    """What keeps us from a Space, as Undelivered: in a line."""
    from huggingface_hub import errors

    try:
        yield
    except ConfigError as error:
        raise Undelivered(error.message) from None
    except (HubUnreachable, errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        remedy = "see that HF_TOKEN may write there" if hubclient.is_forbidden(error) else ""
        raise Undelivered(f"the Hub did not give us the Space {space} ({hubclient.cause(error)})", remedy) from None


def own_token() -> str | None:
    """The user's own token: from the environment, or of `hf auth login`."""
    from huggingface_hub import get_token

    return get_token()


def space_token() -> str | None:
    """What a Space may have to keep its data. Raises Undelivered where it is the user's own token."""
    token = os.environ.get("TRACKIO_SPACE_TOKEN", "").strip() or None
    if token is not None and token == own_token():
        what = "TRACKIO_SPACE_TOKEN is your own token, which no Space may have"
        raise Undelivered(what, "make one that can do less, or leave it out")
    return token


def give_read_token(space: str) -> None:
    """Put HF_READ_TOKEN, where there is one, in the place of the token that the Space has; one without gets none.

    The Space restarts with it. Raises Undelivered.
    """
    with _said(space):
        if (token := hubclient.read_token()) is not None:
            hubclient.insist(lambda: _replaced(space, token), PATIENCE)


def _replaced(space: str, token: str) -> None:
    api = hubclient.api()
    if "HF_TOKEN" in api.get_space_secrets(space):
        api.add_space_secret(space, "HF_TOKEN", token)


def _found_or_made(space: str, private: bool) -> Any:
    from huggingface_hub import errors

    api = hubclient.api()
    try:
        found = api.space_info(space)
    except errors.RepositoryNotFoundError:
        found = None
    there = {file.rfilename for file in found.siblings or ()} if found else set()
    if MADE not in there and there - FRESH:
        raise Undelivered(f"the Space {space} holds something that is no Trackio", "name another one")
    if found and private and not found.private:
        return found  # nothing is put there, and it is refused
    if private:
        _check_bucket(api, _bucket(space))
    if MADE in there:
        return found
    _make(api, space, private)
    return api.space_info(space)


def _bucket(space: str) -> str:
    """Where the Space's data lie."""
    return f"{space}-bucket"


def _check_bucket(api: Any, bucket: str) -> None:
    """Raise Undelivered where everybody may read what the Space keeps. One that is not shown to us is not public."""
    from huggingface_hub import errors

    try:
        private = api.bucket_info(bucket).private
    except errors.HfHubHTTPError as error:
        if error.response.status_code not in (*hubclient.FORBIDDEN, 404):
            raise
        return
    if not private:
        remedy = "make it private on the Hub, or set monitor.private=false"
        raise Undelivered(f"the bucket {bucket} is public, and monitor.private is true", remedy)


def _make(api: Any, space: str, private: bool) -> None:
    """Every call may be made again: what is there is left, and what is missing is set."""
    from huggingface_hub import CommitOperationAdd, Volume

    bucket = _bucket(space)
    api.create_repo(space, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
    api.create_bucket(bucket, private=private, exist_ok=True)
    api.set_space_volumes(space, [Volume(type="bucket", source=bucket, mount_path=MOUNT)])
    api.add_space_variable(space, "TRACKIO_DIR", f"{MOUNT}/trackio")
    api.add_space_variable(space, "TRACKIO_BUCKET_ID", bucket)
    given = {"TRACKIO_WRITE_TOKEN": os.environ.get("TRACKIO_WRITE_TOKEN", "").strip() or secrets.token_urlsafe(32)}
    if token := space_token():
        given["HF_TOKEN"] = token
    known = api.get_space_secrets(space)
    for name, value in given.items():
        if name not in known:
            api.add_space_secret(space, name, value)
    add = [CommitOperationAdd(path, content.encode()) for path, content in files().items()]
    api.create_commit(space, add, commit_message="Trackio", repo_type="space")


def files() -> dict[str, str]:
    """What the Space runs: Trackio of the version that is installed here, with its own description of a Space."""
    readme = importlib.resources.files("trackio").joinpath("README.md").read_text(encoding="utf-8")
    readme = readme.replace("sdk_version: {GRADIO_VERSION}\n", "").replace("{APP_FILE}", MADE)
    return {
        "README.md": readme.replace("{LINKED_HUB_METADATA}", "").rstrip() + "\n",
        "requirements.txt": f"trackio[spaces]=={importlib.metadata.version('trackio')}\n",
        MADE: "import trackio\n\ntrackio.show()\n",
    }
