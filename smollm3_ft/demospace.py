"""The demo Space of a model on the Hub: the page of `chatapp.py`, made, waited for, and asked a question.

It knows its model by repository and commit. Of secrets it gets one at most, as `HF_TOKEN`, which is the name that the
Hub's client reads: HF_READ_TOKEN, with which it reads a private model. Never the user's own token. Variables and secret
are set first, and all files come last, in one commit: what begins to run there has all that it needs.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smollm3_ft import files, hubclient, pages, permission, publishing, redaction
from smollm3_ft.config import Config
from smollm3_ft.errors import ConfigError, Problem, PublishError
from smollm3_ft.runs import Run

if TYPE_CHECKING:
    from huggingface_hub import HfApi

KEY = "publish.demo_space"
GRADIO = "6.31.0"  # of the extra `web`, which need not be installed here
PATIENCE = 120.0  # seconds in which a call is made again
STARTING = 1800.0  # seconds for the Space to be built, to fetch its model, and to start
ANSWERING = 300.0  # seconds for an answer, on a CPU
BETWEEN = 5.0  # seconds between two looks
QUESTION = "What is the capital of France?"
BROKEN = ("BUILD_ERROR", "CONFIG_ERROR", "RUNTIME_ERROR", "NO_APP_FILE")
HALTED = ("PAUSED", "STOPPED", "SLEEPING", "DELETING")
LOG_LINES = 5


def problems(config: Config) -> Iterator[Problem]:
    """What keeps the demo Space of a configuration from being made, as far as tokens tell."""
    if config.publish.demo_space is None:
        return
    try:
        token = hubclient.read_token()
    except ConfigError as error:
        yield from error.problems
        return
    if token is None and config.publish.private:
        what = f"is not set, and without it the Space {config.publish.demo_space} cannot read a private model"
        remedy = "set it to a token that may only read, or use publish.private=false or publish.demo_space=none"
        yield Problem("HF_READ_TOKEN", what, remedy)


def check(config: Config, repo: str, patience: float) -> None:
    """Raise ConfigError where the demo Space of a model in `repo` could not be made, as far as the Hub tells before."""
    space = _name(config, repo)
    if space is None:
        return
    if found := list(problems(config)):
        raise ConfigError(*found)
    private = config.publish.private
    hubclient.insist(lambda: permission.claim(hubclient.api(), space, private, "space", KEY), patience)


def _name(config: Config, repo: str) -> str | None:
    """The Space with its owner, who is the model's where none is named."""
    space = config.publish.demo_space
    return space if space is None or "/" in space else f"{repo.partition('/')[0]}/{space}"


def deployed(run: Run, record: dict[str, Any], on_line: Callable[[str], None]) -> dict[str, Any]:
    """Make the run's demo Space show what `record` says was published, and ask it a question. Returns the record,
    with `demo_space`: its name, its address, and whether it was tried; `published.json` holds the same. What is waited
    for is told to `on_line`.

    Nothing is done where no Space is asked for, or where that one was tried before. Raises PublishError where it does
    not start or does not answer, ConfigError where it may not be made, HubUnreachable.
    """
    if record["target"] != "hub" or publishing.is_finished(record, run):
        return record
    space = _name(run.config, record["repo"])
    if space is None:
        return record
    if found := list(problems(run.config)):
        raise ConfigError(*found)
    told = {"space": space, "url": f"{hubclient.api().endpoint}/spaces/{space}", "tried": False}
    with permission.named(space, KEY):
        head = hubclient.insist(lambda: _made(hubclient.api(), space, run, record), PATIENCE)
        files.write_json(run.path / publishing.PUBLISHED, record | {"demo_space": told})
        address = _started(hubclient.api(), space, head, on_line)
    _ask(space, address)
    done = record | {"demo_space": told | {"tried": True}}
    files.write_json(run.path / publishing.PUBLISHED, done)
    return done


def _made(api: HfApi, space: str, run: Run, record: dict[str, Any]) -> str:
    """The commit of the Space's files, in a Space that has all its settings. Every call may be made again."""
    from huggingface_hub import CommitOperationAdd

    # A private model is shown by no public Space: it would answer everybody, by the token that reads it.
    private = run.config.publish.private or bool(api.model_info(record["repo"]).private)
    found = permission.claim(api, space, private, kind="space", key=KEY)
    if found is None:
        api.create_repo(space, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
        found = api.space_info(space)
    known = api.get_space_variables(space)
    for name, value in variables(record).items():
        if name not in known or known[name].value != value:
            api.add_space_variable(space, name, value)
    if (token := hubclient.read_token()) is not None:
        api.add_space_secret(space, "HF_TOKEN", token)  # again each time: what it was cannot be read
    add = [CommitOperationAdd(path, content.encode()) for path, content in contents(run.name, record).items()]
    message = f"{run.name}, {record['commit'][:12]}"
    made = api.create_commit(space, add, commit_message=message, repo_type="space", parent_commit=found.sha)
    return made.oid


def variables(record: dict[str, Any]) -> dict[str, str]:
    """What the Space's program reads from its environment."""
    told = {"MODEL_REPO": record["repo"], "MODEL_COMMIT": record["commit"], "HF_HUB_DISABLE_TELEMETRY": "1"}
    return told | ({"MODEL_CODE": "1"} if any(name.endswith(".py") for name in record["files"]) else {})


def contents(name: str, record: dict[str, Any]) -> dict[str, str]:
    """The Space's files: the same app that runs on this machine, and the packages of the versions that are here."""
    repo, commit = record["repo"], record["commit"]
    url = f"{hubclient.api().endpoint}/{repo}/tree/{commit}"
    told = {"name": name, "repo": repo, "commit": commit, "url": url, "gradio": GRADIO, "tag": permission.TAG}
    packages = ("torch", "transformers")
    return {
        "README.md": pages.templates(escaped=False).get_template("space.md").render(told),
        "requirements.txt": "".join(f"{one}=={importlib.metadata.version(one).split('+')[0]}\n" for one in packages),
        "app.py": Path(__file__).with_name("chatapp.py").read_text(encoding="utf-8"),
    }


def _started(api: HfApi, space: str, head: str, on_line: Callable[[str], None]) -> str:
    """Where the Space answers, once what runs there is the commit `head`. Raises PublishError."""
    deadline, told = time.monotonic() + STARTING, ""
    on_line(f"waiting for the Space {space} to start, for up to {STARTING / 60:.0f} minutes")
    while True:
        runtime = hubclient.insist(lambda: api.get_space_runtime(space), PATIENCE)
        stage, is_ours = str(runtime.stage), runtime.raw.get("sha", head) == head
        if (now := stage if is_ours else f"{stage} with its former files") != told:
            on_line(f"the Space {space} is {now}")
            told = now
        if stage == "RUNNING" and is_ours:
            found = hubclient.insist(lambda: api.space_info(space), PATIENCE)
            return str(found.host or f"https://{found.subdomain}.hf.space").rstrip("/")
        if stage in BROKEN and is_ours:
            what = f"the Space {space} does not start ({stage}): {_last_lines(api, space, stage)}"
            raise PublishError(what, "the model is published and verified; publish again for the Space alone")
        if stage in HALTED:
            raise PublishError(f"the Space {space} is {stage.lower()}", "restart it on its page, then publish again")
        if time.monotonic() > deadline:
            what = f"the Space {space} is still {stage} after {STARTING / 60:.0f} minutes"
            raise PublishError(what, "see its page on the Hub, then publish again")
        time.sleep(BETWEEN)


def _last_lines(api: HfApi, space: str, stage: str) -> str:
    """The end of what a Space wrote while it was built, or while it ran; its token is not told."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    lines: list[str] = []
    with contextlib.suppress(HfHubHTTPError, httpx2.TransportError):  # the stage is told without them
        written = "".join(api.fetch_space_logs(space, build=stage == "BUILD_ERROR"))
        lines = [line.strip() for line in written.splitlines() if line.strip()]
    said = " | ".join(lines[-LOG_LINES:]) or "see its log on the Hub"
    return redaction.redacted(said)


def _ask(space: str, address: str) -> None:
    """Ask the Space a fixed question. Raises PublishError where no answer comes."""
    import httpx
    from gradio_client import Client

    remedy = "see its page on the Hub, then publish again"
    token = hubclient.read_token() or False  # False: none, and above all not the user's own
    options = {"verbose": False, "download_files": False, "analytics_enabled": False}
    try:
        client = Client(address, token=token, httpx_kwargs={"timeout": hubclient.SILENT}, **options)
        answer = client.submit(QUESTION, api_name="/chat").result(timeout=ANSWERING)
    except (httpx.HTTPError, ValueError, KeyError, OSError) as error:  # also of time: that is an OSError
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise PublishError(f"the Space {space} runs, and does not answer ({said})", remedy) from None
    if not any(str(bubble["content"]).strip() for bubble in answer):
        raise PublishError(f"the Space {space} answers a question with nothing", remedy)
