"""Secrets are taken out of what is kept, whatever said them."""

import io
import logging
import pickle

import httpx2
import pytest
from huggingface_hub.errors import HfHubHTTPError

from smollm3_ft import errors, hubclient, redaction, resolve
from smollm3_ft.errors import ConfigError, FinetuneError, Problem
from smollm3_ft.layers import parse_words

CANARY = f"hf_{'canary' * 6}"
OURS = "a-write-token-of-trackio"


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", f"{CANARY}\n")
    monkeypatch.setenv("TRACKIO_WRITE_TOKEN", OURS)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "me:a-long-word")
    monkeypatch.setenv("SSH_KEY_NAME", "training")


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (f"Bearer {CANARY} is bad", "Bearer <secret> is bad"),
        (f"another's: hf_{'x' * 34}", "another's: <secret>"),
        (f"x-trackio-write-token: {OURS}", "x-trackio-write-token: <secret>"),
        ("nothing of hf_hub_download", "nothing of hf_hub_download"),
        ("Authorization: Basic bWU6YS1sb25nLXdvcmQ=", "Authorization: Basic <secret>"),
        ("kept in /home/me/training/x", "kept in /home/me/training/x"),
    ],
)
def test_a_text_is_told_without_secrets(text: str, clean: str) -> None:
    """The environment's, and all that look like the Hub's."""
    assert redaction.redacted(text) == clean


def test_a_token_as_an_error_spells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A header with characters that cannot be sent is shown with them escaped."""
    monkeypatch.setenv("HF_TOKEN", "hf_abc\x0bdef")
    said = str(b"Illegal header value Bearer hf_abc\x0bdef")
    assert "abc" not in redaction.redacted(said)


def refused() -> HfHubHTTPError:
    """As the client raises it: with the request, and its headers."""
    request = httpx2.Request("GET", "https://hub/api/whoami-v2", headers={"Authorization": f"Bearer {CANARY}"})
    return HfHubHTTPError("401 Unauthorized", response=httpx2.Response(401, request=request))


def test_what_hangs_on_an_error_does_not_leave_a_step() -> None:
    """The words of the Hub's client are clean, but with it goes the request, whose header is the token."""
    assert CANARY.encode() in pickle.dumps(refused())

    @redaction.guarded
    def step() -> None:
        raise refused()

    with pytest.raises(FinetuneError, match="HfHubHTTPError: 401 Unauthorized") as caught:
        step()
    assert CANARY.encode() not in pickle.dumps(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "error",
    [
        ConfigError(Problem("model.name", f"there is no {CANARY}", "look again")),
        errors.HubUnreachable(f"the Hub says: {CANARY}", "try again"),
        errors.PublishError("the Hub is against it", f"not with {CANARY}"),
    ],
)
def test_an_error_of_ours_stays_what_it_is(error: FinetuneError) -> None:
    """Its kind says whether trying again helps."""
    clean = redaction.without_secrets(error)
    assert type(clean) is type(error)
    assert str(clean) == str(error).replace(CANARY, "<secret>")


def test_an_error_without_a_secret_is_left_as_it_is() -> None:
    """With its traceback, and all that hangs on it."""
    error = OSError(2, "no such file")

    @redaction.guarded
    def step() -> None:
        raise error

    with pytest.raises(OSError, match="no such file") as caught:
        step()
    assert caught.value is error


def test_a_secret_is_found_in_what_caused_an_error() -> None:
    """Its traceback shows that too."""

    @redaction.guarded
    def step() -> None:
        raise KeyError("name") from ValueError(f"Illegal header value b'Bearer {CANARY}'")

    with pytest.raises(FinetuneError, match="KeyError: 'name'") as caught:
        step()
    assert caught.value.__cause__ is None


def test_a_log_is_kept_without_secrets() -> None:
    """Whether they stand in the words or in the values."""
    written = io.StringIO()
    logger = logging.Logger("some")
    logger.addHandler(logging.StreamHandler(written))
    logger.addFilter(redaction.Filter())
    logger.warning("the Hub says: %s", refused().response.request.headers["Authorization"])
    assert written.getvalue() == "the Hub says: Bearer <secret>\n"


def test_why_the_hub_refuses_is_said_without_what_it_was_sent() -> None:
    """Some echo the header."""
    echoed = HfHubHTTPError(f"403 Forbidden: not with Bearer {CANARY}", response=refused().response)
    assert hubclient.cause(echoed) == "403 Forbidden: not with Bearer <secret>"


@pytest.mark.parametrize(
    ("words", "where"),
    [
        ([f"model.name={CANARY}"], "model.name"),
        ([f"name={CANARY}"], "name"),
        ([f"recipe={CANARY}"], "recipe"),
        ([f"publish.repo=me/{CANARY}"], "publish.repo"),
        ([f"data.source=[{{source: {CANARY}}}]"], "data.source"),
        ([f"train.epochs={CANARY}"], "train.epochs"),
        ([f"monitor.trackio={OURS}"], "monitor.trackio"),
        ([f"{CANARY}=1"], "<secret>"),
    ],
)
def test_a_configuration_holds_no_secret(words: list[str], where: str) -> None:
    """It is refused with the key, and without the value, before anything is kept."""
    environment = {"HF_TOKEN": CANARY, "TRACKIO_WRITE_TOKEN": OURS}
    with pytest.raises(ConfigError) as caught:
        resolve.resolve(parse_words(words), environment)
    assert [problem.where for problem in caught.value.problems] == [where]
    assert "holds a token or another secret; a configuration is kept" in str(caught.value)
    assert CANARY not in str(caught.value)
    assert OURS not in str(caught.value)


def test_a_variable_that_gives_a_key_holds_no_secret() -> None:
    """It is named."""
    with pytest.raises(ConfigError, match=r"^model.name \(from MODEL_NAME\): holds a token or another secret"):
        resolve.resolve({}, {"MODEL_NAME": CANARY})
