"""What the Hub lets us do, asked before anything is spent: whose token this is, where it may write, what is there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml

from smollm3_ft import hubclient
from smollm3_ft.config import Publish
from smollm3_ft.errors import ConfigError, Problem

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import DatasetInfo, ModelInfo, SpaceInfo

    Found = ModelInfo | DatasetInfo | SpaceInfo

TAG = "smollm3-ft"  # in a card's head: this project made the repository
CARD = "README.md"
OF_A_NEW_REPOSITORY = {".gitattributes", CARD}  # what the Hub puts there itself
WRITING_ROLES = ("admin", "write", "contributor")  # in an organisation
TOKENS = "https://huggingface.co/settings/tokens"
KEY = "publish.repo"


def account() -> dict[str, Any]:
    """Whose token this is, as `whoami` tells it, once a process: the Hub takes few of these questions.

    Raises ConfigError without a token, and for one that the Hub does not know.
    """
    from huggingface_hub import get_token, whoami

    if get_token() is None:
        remedy = "set HF_TOKEN, or log in with `hf auth login`, or use publish.target=local"
        raise ConfigError(Problem("HF_TOKEN", "publish.target=hub needs a token that may write", remedy))
    hubclient.limit_waiting()
    with named("this token"):
        return dict(whoami(cache=True))


def check(publish: Publish, name: str, patience: float) -> str:
    """See that the run `name` may be published on the Hub as `publish` says. Returns what was found, in words.

    Raises ConfigError where it may not, HubUnreachable where the Hub does not answer for `patience` seconds.
    """
    repo = repository(publish, name, patience)
    found = hubclient.insist(lambda: claim(hubclient.api(), repo, publish.private), patience)
    return f"we may write to {repo}" if found else f"we may make {repo}"


def repository(publish: Publish, name: str, patience: float) -> str:
    """The repository of the run `name`: `publish.repo`, its owner HF_USERNAME or who the token says that we are."""
    repo = publish.repo or name
    if "/" in repo:
        return repo
    owner = os.environ.get("HF_USERNAME", "").strip()
    return f"{owner or hubclient.insist(account, patience)['name']}/{repo}"


def claim(api: HfApi, repo: str, private: bool, kind: str = "model", key: str = KEY) -> Found | None:
    """See that `repo` may be written to and is ours, or may be made. Returns what is there now, None where nothing is.

    One request where nobody has the name, two and a look at its card where it is there. Raises ConfigError where the
    token may not write there, where it is public against `private`, and where it is somebody else's. `kind` is model,
    dataset or space.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    with named(repo, key):
        try:
            found = cast("Found", api.repo_info(repo, repo_type=kind, files_metadata=True))
        except RepositoryNotFoundError:
            _check_may_create(account(), repo, key)
            return None
        _check_may_write(api, repo, kind, key)
        if private and not found.private:
            remedy = "make it private on the Hub, name another one, or publish.private=false"
            raise ConfigError(Problem(key, f"{repo} is public, and publish.private is true", remedy))
        if not _is_ours(api, repo, kind, found):
            remedy = "name another one, or delete it on the Hub"
            raise ConfigError(Problem(key, f"{repo} holds a {kind} that smollm3-ft did not make", remedy))
        return found


def check_model(api: HfApi, name: str) -> None:
    """Raise ConfigError where the base model's files may not be read: it is gated, private, or not there."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        api.auth_check(name)
    except GatedRepoError:
        remedy = f"accept its terms on https://huggingface.co/{name} with the account of HF_TOKEN"
        raise ConfigError(Problem("model.name", f"access to {name} is gated", remedy)) from None
    except RepositoryNotFoundError:
        remedy = "check the spelling; a private one needs a token of its owner in HF_TOKEN"
        raise ConfigError(Problem("model.name", f"the Hub has no {name}", remedy)) from None


@contextmanager
def named(repo: str, key: str = KEY) -> Iterator[None]:
    """What the Hub says against a token or a name, as ConfigError: in a line, with what to do."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        yield
    except HFValidationError as error:
        what = f"{repo} is no Hub name ({str(error).splitlines()[0]})"
        raise ConfigError(Problem(key, what, "use owner/name with letters, digits, '.', '_' and '-'")) from None
    except OfflineModeIsEnabled:
        remedy = "unset HF_HUB_OFFLINE, or use publish.target=local"
        raise ConfigError(Problem(key, f"{repo} is on the Hub, and HF_HUB_OFFLINE is set", remedy)) from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status == 401:
            remedy = f"make another at {TOKENS}, and set HF_TOKEN or log in with `hf auth login`"
            raise ConfigError(Problem("HF_TOKEN", "the Hub does not know this token", remedy)) from None
        if status in (402, 403):
            remedy = f"see what the token may do at {TOKENS}, or name another repository"
            what = f"the Hub does not let us write to {repo} ({hubclient.cause(error)})"
            raise ConfigError(Problem(key, what, remedy)) from None
        raise


def _check_may_write(api: HfApi, repo: str, kind: str = "model", key: str = KEY) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    try:
        api.auth_check(repo, repo_type=kind, write=True)
    except HfHubHTTPError as error:
        if not hubclient.is_forbidden(error):
            raise
        told = account()  # and which kind of token it is
        _check_may_create(told, repo, key)
        remedy = f"ask its owner for the right to, or name a repository of {told['name']}"
        raise ConfigError(Problem(key, f"{told['name']} may not write to {repo}", remedy)) from None


def _check_may_create(told: dict[str, Any], repo: str, key: str = KEY) -> None:
    """Raise ConfigError where a token, by its role and scopes, cannot make or write a repository of that name."""
    owner, user = repo.partition("/")[0], told["name"]
    token = told.get("auth", {}).get("accessToken", {})
    role = token.get("role")
    if role == "read":
        remedy = f"make one that writes at {TOKENS}, and set HF_TOKEN"
        raise ConfigError(Problem("HF_TOKEN", f"this token of {user} may only read", remedy))
    organisations = {one["name"]: one.get("roleInOrg") for one in told.get("orgs", ())}
    if owner != user and owner not in organisations:
        may = [one for one, role in organisations.items() if role is None or role in WRITING_ROLES]
        remedy = f"name {' or '.join([user, *may])} as the owner"
        raise ConfigError(Problem(key, f"{user} is not in {owner}, the owner of {repo}", remedy))
    if owner != user and organisations[owner] is not None and organisations[owner] not in WRITING_ROLES:
        remedy = f"ask an administrator of {owner} for the role write or contributor, or use {user} as the owner"
        raise ConfigError(Problem(key, f"{user} may only read in {owner}, the owner of {repo}", remedy))
    if role == "fineGrained" and not _writes(token.get("fineGrained", {}), owner, repo):
        remedy = f"give it write access to repositories of {owner} at {TOKENS}"
        raise ConfigError(Problem("HF_TOKEN", f"this fine-grained token may not write to {repo}", remedy))


def _writes(fine: dict[str, Any], owner: str, repo: str) -> bool:
    """Whether a fine-grained token may write to all of the owner, or to this repository."""
    scopes = [one for one in fine.get("scoped", ()) if one.get("entity", {}).get("name") in (owner, repo)]
    return any("repo.write" in one.get("permissions", ()) for one in scopes)


def _is_ours(api: HfApi, repo: str, kind: str, found: Found) -> bool:
    """Whether this project made what is there, by its card's tags; also where there is nothing but the Hub's own."""
    there = {file.rfilename for file in found.siblings or ()}
    if there <= OF_A_NEW_REPOSITORY:
        return True
    if CARD not in there:
        return False
    from huggingface_hub.repocard import metadata_load
    from huggingface_hub.utils.tqdm import disable_progress_bars

    with disable_progress_bars():
        path = Path(api.hf_hub_download(repo, CARD, repo_type=kind, revision=found.sha))
    try:
        return TAG in ((metadata_load(path) or {}).get("tags") or ())
    except (ValueError, yaml.YAMLError):
        return False  # a head that is no mapping is not one of ours
