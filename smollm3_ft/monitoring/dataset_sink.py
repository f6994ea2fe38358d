"""The experiment dataset on the Hub: each run replaces its own files there, and no run touches another's.

A push is one commit of all of a run's files, whatever others commit meanwhile: it names no parent, since only the run
itself writes there. Made twice it has one effect: the client sends nothing that is there already. The card alone is
for all; it is written once, by whoever finds the repository empty.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from smollm3_ft import experimentfiles, experiments, hubclient
from smollm3_ft.errors import ConfigError, HubUnreachable, Undelivered
from smollm3_ft.journal import Record
from smollm3_ft.runs import Run

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import DatasetInfo

PATIENCE = 90.0  # seconds in which a push is begun again; then with the next delivery
CARD = "README.md"
OF_A_NEW_REPOSITORY = {".gitattributes"}
REMEDY = "name another one, or use monitor.dataset=none"


def deliver(run: Run, records: list[Record]) -> None:  # noqa: ARG001  # what is new is part of all there is
    """Put the run's files as they are now into the dataset. Raises Undelivered."""
    _push(run, has_ended=False)


def finish(run: Run) -> None:
    """Put the run's files as its report has them into the dataset. Raises Undelivered."""
    _push(run, has_ended=True)


def repository(run: Run, patience: float = PATIENCE) -> str:
    """`monitor.dataset` with its owner: HF_USERNAME, or who the token says that we are. Raises Undelivered."""
    named = str(run.config.monitor.dataset)
    return named if "/" in named else f"{_owner(patience)}/{named}"


@functools.lru_cache(maxsize=4)
def set_up(repo: str, private: bool, patience: float = PATIENCE) -> str:
    """Make the dataset where there is none, and see that it is ours and may be written to. Returns what was found.

    Raises Undelivered, and asks again the next time.
    """
    from huggingface_hub import get_token

    if get_token() is None:
        raise Undelivered(f"{repo} needs a token that may write to it", "set HF_TOKEN, or use monitor.dataset=none")
    with _named(repo):
        return hubclient.insist(lambda: _claim(hubclient.api(), repo, private), patience)


def _claim(api: HfApi, repo: str, private: bool) -> str:
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        found = api.dataset_info(repo)
    except RepositoryNotFoundError:
        api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        found = api.dataset_info(repo)
    api.auth_check(repo, repo_type="dataset", write=True)
    if private and not found.private:
        raise Undelivered(f"{repo} is public, and monitor.private is true", "make it private, or monitor.private=false")
    there = {file.rfilename for file in found.siblings or ()} - OF_A_NEW_REPOSITORY
    if not there:
        card = CommitOperationAdd(CARD, experimentfiles.card(repo).encode())
        message = "An experiment dataset"
        api.create_commit(repo, [card], commit_message=message, repo_type="dataset", parent_commit=found.sha)
        return f"{repo} is new"
    if CARD not in there or not _is_ours(api, repo, found):
        raise Undelivered(f"{repo} holds something that is no experiment dataset of smollm3-ft", REMEDY)
    return f"{repo} is there"


def _is_ours(api: HfApi, repo: str, found: DatasetInfo) -> bool:
    path = api.hf_hub_download(repo, CARD, repo_type="dataset", revision=found.sha)
    return experimentfiles.is_card_of_ours(Path(path).read_text(encoding="utf-8"))


def _push(run: Run, has_ended: bool) -> None:
    repo = repository(run)
    set_up(repo, run.config.monitor.private)
    told = experiments.shared(experiments.of_run(run.path, has_ended), texts=run.config.publish.samples)
    made = experimentfiles.made(told, experiments.values(run.path))
    title = f"{told.name}: {told.status}, step {told.train.get('steps', 0)}"
    try:
        with _named(repo):
            hubclient.insist(lambda: _commit(hubclient.api(), repo, made, title), PATIENCE)
    except Undelivered:
        set_up.cache_clear()  # it may have changed since it was looked at
        raise


def _commit(api: HfApi, repo: str, made: dict[str, bytes], title: str) -> None:
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.utils.tqdm import disable_progress_bars

    add = [CommitOperationAdd(path, content) for path, content in made.items()]
    with disable_progress_bars():
        api.create_commit(repo, add, commit_message=title, repo_type="dataset")


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Whatever the Hub says against it, as Undelivered: in a line, with what to do."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        yield
    except HubUnreachable as error:
        raise Undelivered(error.message, "the next delivery brings what waits") from None
    except ConfigError as error:
        raise Undelivered(error.message) from None
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError) as error:
        remedy = "see that HF_TOKEN may write there" if hubclient.is_forbidden(error) else REMEDY
        raise Undelivered(f"the Hub does not give us {what} ({hubclient.cause(error)})", remedy) from None


@functools.cache
def _owner(patience: float) -> str:
    from huggingface_hub import get_token

    if named := os.environ.get("HF_USERNAME", "").strip():
        return named
    if get_token() is None:
        raise Undelivered("monitor.dataset names no owner, and there is no token", "set HF_TOKEN or HF_USERNAME")
    with _named("the owner of monitor.dataset"):
        return str(hubclient.insist(lambda: hubclient.api().whoami(), patience)["name"])
