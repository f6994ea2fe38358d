"""`smollm3-ft data SOURCE --push owner/name`: the rows that are kept as a dataset on the Hub, with ledger and card.

All of it is one commit, and none where the Hub has it already. The quarantine stays on this machine.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from smollm3_ft import chat, experiments, files, hubclient, hubpush, keptrows, pages, permission, permitted, redaction
from smollm3_ft.config import Config, Data, Publish
from smollm3_ft.data import Prepared
from smollm3_ft.errors import ConfigError, Problem
from smollm3_ft.hubpush import Place
from smollm3_ft.keptrows import Part
from smollm3_ft.sources import SourcePlan

KEY = "--push"
PATIENCE = 60.0  # seconds with a Hub that does not answer, before anything is read
CARD, LEDGER = "README.md", "ledger.json"


def place(repo: str, config: Config) -> Place:
    """Where the dataset goes, if that may be: asked before any row is read. Raises ConfigError or HubUnreachable."""
    from huggingface_hub import get_token

    if problems := [*redaction.problems({KEY: repo}, os.environ), *permitted.unowned(KEY, repo, os.environ)]:
        raise ConfigError(*problems)
    asked = _asked(repo)
    if get_token() is None:
        raise ConfigError(Problem("HF_TOKEN", f"{KEY} needs a token that may write", "set it, or `hf auth login`"))
    named = permission.repository(asked, "", PATIENCE)
    private = config.publish.private
    there = hubclient.insist(lambda: permission.claim(hubclient.api(), named, private, "dataset", KEY), PATIENCE)
    if there is not None:
        private = private or bool(there.private)  # one that is there stays as it is
    return Place(named, private, "dataset", KEY, "run the same command again")


def _asked(repo: str) -> Publish:
    try:
        asked = Publish(repo=repo)
    except ValidationError:
        asked = Publish()
    if asked.repo is None:
        what = f"{repo!r} is no Hub name"
        raise ConfigError(Problem(KEY, what, "use owner/name with letters, digits, '.', '_' and '-'"))
    return asked


def push(
    prepared: Prepared, pinned: Sequence[SourcePlan], settings: Data, model: Path, tokenizer: str, to: Place
) -> dict[str, Any]:
    """Bring the dataset to the Hub. Returns `repo`, `commit`, `url` and `private`.

    Raises DataError where a source changed, and as `hubpush.push` does.
    """
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "dataset"
        folder.mkdir()
        parts = keptrows.write(Path(prepared.folder), pinned, settings, chat.load(model), folder, Path(work) / "spools")
        ledger = experiments.without_folders(prepared.ledger)
        ledger["leaks"] = {name: value for name, value in ledger["leaks"].items() if name != "first"}
        files.write_json(folder / LEDGER, ledger)
        files.write(folder / CARD, card(to.repo, parts, ledger, settings, tokenizer))
        rows = sum(sum(part.rows.values()) for part in parts)
        commit = hubpush.bring(folder, hubpush.listed(folder), to, f"{rows:,} rows")
    url = f"{hubclient.api().endpoint}/datasets/{to.repo}"
    return {"repo": to.repo, "commit": commit, "url": url, "private": to.private}


def card(repo: str, parts: Sequence[Part], ledger: dict[str, Any], settings: Data, tokenizer: str) -> str:
    """The dataset's README: a head by which it loads in a line, and what became of the rows of every source."""
    template = pages.templates(escaped=False).get_template("dataset.md")
    return template.render(
        repo=repo, parts=parts, ledger=ledger, settings=settings, tokenizer=tokenizer, tag=permission.TAG
    )
