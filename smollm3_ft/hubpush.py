"""A folder onto a repository of the Hub, in one commit, and read back from there.

Large files are sent first, each under its hash; then one commit, on top of the head that was looked at, makes all of
them appear on `main` at once. (`upload_folder` would make several where Xet is used.) Each step looks at what is there
before it does anything, so all of it may be repeated after a reply that was lost, or by another process.
"""

from __future__ import annotations

import glob
import hashlib
import io
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from smollm3_ft import files, hubclient, permission
from smollm3_ft.errors import ConfigError, PublishError

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoSibling

    from smollm3_ft.permission import Found

PATIENCE = 390.0  # seconds in which a step is asked again: a rate limit of the Hub lasts up to five minutes
SUMS = "SHA256SUMS"  # in the repository: what a push put there, as `sha256sum --check` reads it
FETCHED = "model"  # in the folder of a verification
Content = Path | bytes
Answer = TypeVar("Answer")
log = logging.getLogger("smollm3_ft.hubpush")


class Place(NamedTuple):
    """A repository that is pushed to: `kind` is model or dataset, and `key` where it was named."""

    repo: str
    private: bool
    kind: str = "model"
    key: str = permission.KEY
    remedy: str = "publish the run again"


def push(folder: Path, repo: str, private: bool, tag: str, run_id: str, message: str) -> dict[str, Any]:
    """Bring `main` of `repo` to what `folder` holds, and tag the commit. Returns `repo`, `commit`, `tag`, `files`.

    `files` is {path below `folder`: sha256} of every file that is not hidden. The repository is made where it is not
    there; files of a former push that are no longer part go with the same commit, what others put there stays. Where
    the tag stands for another commit, it gets the first digits of `run_id` behind it.

    Raises ConfigError or PublishError at once where the Hub is against it, HubUnreachable where it does not answer as
    it should for PATIENCE seconds.
    """
    digests, place = listed(folder), Place(repo, private)
    commit = bring(folder, digests, place, message)
    with _said(place):
        tagged = _insist(lambda: _tag(hubclient.api(), repo, commit, tag, run_id))
    return {"repo": repo, "commit": commit, "tag": tagged, "files": digests}


def bring(folder: Path, digests: Mapping[str, str], place: Place, message: str) -> str:
    """Bring `main` to what `folder` holds, whose files' hashes are `digests`, as `push` does. Returns the commit."""
    contents: dict[str, Content] = {path: folder / path for path in digests}
    wanted = {**contents, SUMS: _sums(digests)}
    known = {**digests, SUMS: hashlib.sha256(_sums(digests)).hexdigest()}
    with _said(place):
        _insist(lambda: _make(hubclient.api(), place))
        return _insist(lambda: _commit(hubclient.api(), place, wanted, known, message))


def listed(folder: Path) -> dict[str, str]:
    """Every file below `folder` that is not hidden, nor in a hidden folder, by its path there: its sha256."""
    paths = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    shown = {name: path for name, path in paths.items() if not any(part.startswith(".") for part in name.parts)}
    return {name.as_posix(): files.sha256(path) for name, path in shown.items() if name.as_posix() != SUMS}


def verify(record: Mapping[str, Any], into: Path) -> Path:
    """Fetch the commit that a push recorded into the folder `into`, from the Hub alone, and compare every hash.

    Returns the folder of the model in it. Raises PublishError for a file that is missing or not as it was pushed; and
    as `push` does.
    """
    hubclient.limit_waiting()
    with _said(Place(record["repo"], True)):
        _insist(lambda: _fetch(record["repo"], record["commit"], record["files"], into))
    for path, digest in record["files"].items():
        there = into / FETCHED / path
        if not there.is_file() or files.sha256(there) != digest:
            what = "is not as it was pushed" if there.is_file() else "is missing"
            raise PublishError(f"{path} {what} in {record['repo']} at {record['commit'][:12]}", "publish the run again")
    return into / FETCHED


def _fetch(repo: str, commit: str, paths: Iterable[str], into: Path) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    with disable_progress_bars():  # and with a cache of its own, that holds nothing which was never on the Hub
        ours = [glob.escape(path) for path in (*paths, SUMS)]  # what others put there may be large
        snapshot_download(
            repo, revision=commit, local_dir=into / FETCHED, cache_dir=into / "cache", allow_patterns=ours
        )


def _make(api: HfApi, place: Place) -> None:
    """The repository, where it is not there."""
    if permission.claim(api, place.repo, place.private, place.kind, place.key) is None:
        api.create_repo(place.repo, repo_type=place.kind, private=place.private, exist_ok=True)


def _commit(api: HfApi, place: Place, wanted: Mapping[str, Content], digests: Mapping[str, str], message: str) -> str:
    """The commit at the head of `main` that holds what is wanted: made on top of the head where that does not."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete
    from huggingface_hub.utils.tqdm import disable_progress_bars

    repo, private, kind, key, remedy = place
    head = permission.claim(api, repo, private, kind, key)  # somebody may have committed since
    if head is None or head.sha is None:
        raise PublishError(f"{repo} is gone from the Hub", remedy)
    there = {one.rfilename: one for one in head.siblings or ()}
    changed = [path for path in wanted if not _is_there(there.get(path), wanted[path], digests[path])]
    gone = sorted(_of_former_push(api, place, head) & set(there) - set(wanted))
    if not changed and not gone:
        return head.sha
    size = files.gib(sum(_size(wanted[path]) for path in changed))
    log.info("sending %s to %s", size, repo, extra={"waits": True})
    with disable_progress_bars():
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            *(CommitOperationAdd(path, _opened(wanted[path])) for path in changed),
            *(CommitOperationDelete(path, is_folder=False) for path in gone),
        ]
        # One request, Xet or not; 412 where `main` is not at this head any more, which is looked at again.
        made = api.create_commit(repo, operations, commit_message=message, repo_type=kind, parent_commit=head.sha)
        return made.oid


def _tag(api: HfApi, repo: str, commit: str, tag: str, run_id: str) -> str:
    """The tag that stands for the commit: found, or made under the first of three names that is free."""
    tag = re.sub(r"\.{2,}", ".", tag).removesuffix(".lock").rstrip(".")  # which git takes for no name
    for name in (tag, f"{tag}-{run_id[:8]}", f"{tag}-{run_id[:8]}-{commit[:7]}"):
        if name not in _tags(api, repo):
            api.create_tag(repo, tag=name, revision=commit, exist_ok=True)
        if _tags(api, repo).get(name) == commit:
            return name
    raise PublishError(f"{repo} has tags {name} and others for other commits", "delete one of them on the Hub")


def _tags(api: HfApi, repo: str) -> dict[str, str]:
    return {one.name: one.target_commit for one in api.list_repo_refs(repo).tags}


def _is_there(there: RepoSibling | None, content: Content, digest: str) -> bool:
    """Whether the Hub's file is this one: by sha256 where it is a large one, else by the id that git gives it."""
    if there is None:
        return False
    if there.lfs:
        return bool(there.lfs["sha256"] == digest)
    return there.size == _size(content) and there.blob_id == _git_id(content)  # large ones are not read for it


def _size(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _git_id(content: Content) -> str:
    data = content if isinstance(content, bytes) else content.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _opened(content: Content) -> Path | io.BytesIO:
    return io.BytesIO(content) if isinstance(content, bytes) else content


def _sums(digests: Mapping[str, str]) -> bytes:
    return "".join(f"{digest}  {path}\n" for path, digest in sorted(digests.items())).encode()


def _of_former_push(api: HfApi, place: Place, head: Found) -> set[str]:
    """The files that the last push put there, as it listed them."""
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if SUMS not in {one.rfilename for one in head.siblings or ()}:
        return set()
    with disable_progress_bars():
        path = api.hf_hub_download(place.repo, SUMS, repo_type=place.kind, revision=head.sha)
        text = Path(path).read_text(encoding="utf-8")
    return {path for line in text.splitlines() if (path := line.partition("  ")[2])}


def _insist(ask: Callable[[], Answer]) -> Answer:
    return hubclient.insist(ask, PATIENCE, log.warning)


@contextmanager
def _said(place: Place) -> Iterator[None]:
    """What the Hub says against a push, in a line with what to do."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        with permission.named(place.repo, place.key):
            yield
    except ConfigError:
        raise
    except HfHubHTTPError as error:
        what = f"the Hub does not take {place.repo} ({hubclient.cause(error)})"
        raise PublishError(what, f"see the repository's page on the Hub, then {place.remedy}") from None
    except ValueError as error:  # the client asks the Hub about the card before it sends anything
        what = f"the Hub refuses the card of {place.repo} ({' '.join(str(error).split())[:300]})"
        raise PublishError(what, f"mend the card's template, then {place.remedy}") from None
