"""The kinds of failure that are not bugs. Each message says what, where, and what to do; bugs propagate as they are."""

from __future__ import annotations

from typing import NamedTuple


class Problem(NamedTuple):
    """One thing wrong with a configuration: the dotted key (or a place), what is wrong, what to do or use instead."""

    where: str
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f"; {self.remedy}" if self.remedy else "")


class FinetuneError(Exception):
    """A failure with a known cause. `message` is one line, `remedy` says what to do about it."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


class ConfigError(FinetuneError):
    """The configuration cannot work: retrying it never helps. Holds one `Problem` a line."""

    def __init__(self, *problems: Problem) -> None:
        Exception.__init__(self, *problems)
        self.problems = problems
        self.message = "\n".join(map(str, problems))
        self.remedy = ""


class DataError(FinetuneError):
    """The data cannot be trained on: retrying it never helps."""


class HubUnreachable(FinetuneError):
    """The Hub did not answer, or not as it should: trying again may help."""


class Undelivered(FinetuneError):
    """A sink does not take records now. Nothing is lost: they stay in the journals until it does."""


class TrainingError(FinetuneError):
    """A process that trains or evaluates failed."""


class OutOfMemory(TrainingError):
    """What was to be computed does not fit into the device's memory."""


class ProcessDied(TrainingError):
    """A child process was ended by a signal: what it had saved is there, so trying again goes on from it."""


class Stalled(ProcessDied):
    """A child process that no longer went on, and was ended: trying again goes on from what it had saved."""


class Stopped(TrainingError):
    """A child process was told to stop by somebody else: not a failure, and not to be tried again by itself."""


class PublishError(FinetuneError):
    """The model could not be published, or what was published is not what was trained."""


class RunBusy(FinetuneError):
    """Another process works on the same run."""
