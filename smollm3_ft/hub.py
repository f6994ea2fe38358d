"""What is asked of the Hugging Face Hub before training: commits, files and rows, with failures said in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from smollm3_ft import hubclient
from smollm3_ft.errors import ConfigError, HubUnreachable, Problem

# A plan needs no weights: what a model is, how it writes, and how large it is. Its card has its licence.
SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "chat_template*",
    "README.md",
)


@contextmanager
def _named(key: str, name: str) -> Iterator[None]:
    """The Hub's refusals, and its silence, as one line with what to do. What may pass is no ConfigError."""
    import httpx2
    from huggingface_hub import errors

    hubclient.limit_waiting()
    try:
        yield
    except errors.GatedRepoError:
        remedy = f"accept its terms on https://huggingface.co/{name} and give a token (HF_TOKEN) of that account"
        raise ConfigError(Problem(key, f"access to {name} is gated", remedy)) from None
    except errors.RepositoryNotFoundError:
        remedy = "check the spelling; a private one needs HF_TOKEN"
        raise ConfigError(Problem(key, f"the Hub has no {name}", remedy)) from None
    except errors.RevisionNotFoundError:
        raise ConfigError(Problem(key, f"{name} has no such revision", "name a branch, tag or commit")) from None
    except errors.HFValidationError as error:
        what = f"{name} is no Hub name ({str(error).splitlines()[0]})"
        raise ConfigError(Problem(key, what, "write it as owner/name")) from None
    except (httpx2.TransportError, errors.HfHubHTTPError, OSError, UnicodeEncodeError) as error:
        hubclient.check_token(error)
        remedy = "check the network, or name a folder on this machine"
        raise HubUnreachable(f"{name} could not be got from the Hub ({hubclient.cause(error)})", remedy) from None


def model_commit(name: str, revision: str | None) -> tuple[str, int]:
    """The commit that a model's revision is now, and the bytes of its safetensors weights."""
    with _named("model.name", name):
        info = hubclient.api().model_info(name, revision=revision, files_metadata=True)
    sizes = [file.size or 0 for file in info.siblings or () if file.rfilename.endswith(".safetensors")]
    if not sizes:
        raise ConfigError(Problem("model.name", f"{name} has no safetensors weights", "name a model that has"))
    assert info.sha is not None
    return info.sha, sum(sizes)


def fetch_model(name: str, commit: str, weights: bool, code: bool = False) -> Path:
    """The folder of a pinned model in the local cache: its small files, or all that training needs, with its own
    `code` where that is to be run."""
    from huggingface_hub import snapshot_download

    patterns = [*SMALL_FILES, "*.safetensors", "*.safetensors.index.json"] if weights else list(SMALL_FILES)
    patterns += ["*.py"] if code else []
    with _named("model.name", name):
        return Path(snapshot_download(name, revision=commit, allow_patterns=patterns))


def fetch_dataset_files(key: str, name: str, patterns: list[str]) -> Path:
    """The folder, in the local cache, of a dataset's files that the patterns name, as they are now."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    with _named(key, name), disable_progress_bars():
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=patterns))


def fetch_card(name: str) -> str:
    """The text of a model's card, as it is now."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    try:
        with _named("--from", name), disable_progress_bars():
            return Path(hf_hub_download(name, "README.md")).read_text(encoding="utf-8", errors="replace")
    except EntryNotFoundError:
        raise ConfigError(Problem("--from", f"{name} has no card", "name a run, a card, or another model")) from None


def dataset_commit(name: str, revision: str | None = None) -> str:
    """The commit that a dataset's revision is; without one, that of `main` now."""
    with _named("data.source", name):
        commit = hubclient.api().dataset_info(name, revision=revision).sha
    assert commit is not None
    return commit


def dataset_splits(name: str, config: str | None, commit: str) -> tuple[str, list[str]]:
    """The configuration to read and its splits. Raises ConfigError with the list where one must be chosen."""
    import datasets

    with _named("data.source", name):
        configs = datasets.get_dataset_config_names(name, revision=commit)
        if config is None and len(configs) > 1:
            raise ConfigError(
                Problem("data.config", f"{name} has several configurations", f"choose one of {', '.join(configs[:20])}")
            )
        chosen = config or configs[0]
        if chosen not in configs:
            what = f"{name} has no configuration {chosen}"
            raise ConfigError(Problem("data.config", what, f"choose one of {', '.join(configs[:20])}"))
        return chosen, list(datasets.get_dataset_split_names(name, chosen, revision=commit))


def dataset_files(name: str, config: str | None, split: str, commit: str | None) -> tuple[str, ...]:
    """The Arrow files that hold the rows of a split, in order, in the local cache."""
    import datasets

    with _named("data.source", name):
        rows = datasets.load_dataset(name, config, split=split, revision=commit)
    return tuple(file["filename"] for file in rows.cache_files)
