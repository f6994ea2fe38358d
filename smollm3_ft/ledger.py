"""What became of every row: the counts of each source, and a line in the quarantine for each row that was dropped."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import IO, Any

from smollm3_ft.errors import DataError
from smollm3_ft.formats import BadRow

# Rows left out by a policy are not bad rows: they do not count towards data.max_bad_rows.
BY_POLICY = ("duplicate", "flagged_bad", "leak", "no_trained_token", "over_length", "sampled")

NO_LEAKS: dict[str, Any] = {"exact": 0, "near": 0, "excluded": 0, "first": []}


@dataclass
class Account:
    """One source's rows. `rows == kept + sum(dropped.values())` holds when every row was entered once."""

    source: str
    rows: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    examples: dict[str, str] = field(default_factory=dict)

    def drop(self, bad: BadRow, place: str, line: int, quarantine: IO[str]) -> None:
        """Count a row that is not used and write it down."""
        self.dropped[bad.reason] += 1
        self.examples.setdefault(bad.reason, f"{place}:{line}")  # the detail may show the row: for here alone
        entry = {"source": place, "line": line, "reason": bad.reason, "detail": bad.detail}
        quarantine.write(json.dumps(entry) + "\n")

    def entry(self) -> dict[str, Any]:
        """The source's part of `ledger.json`: `formats` and `noted` count rows, `cut` is one of the notes."""
        if self.rows != self.kept + self.dropped.total():
            raise AssertionError(f"the ledger of {self.source} does not add up: {self}")
        commonest = self.formats.most_common(1)
        return {
            "source": self.source,
            "format": commonest[0][0] if commonest else None,
            "formats": dict(self.formats.most_common()),
            "rows": self.rows,
            "kept": self.kept,
            "dropped": dict(sorted(self.dropped.items())),
            "cut": self.noted["cut"],
            "noted": {name: count for name, count in sorted(self.noted.items()) if count and name != "cut"},
            "repeated": self.repeated,
        }


def of_nothing(accounts: list[Account]) -> dict[str, Any]:
    """The content of `ledger.json` where no row is kept."""
    empty = {"splits": dict.fromkeys(("train", "validation", "test"), 0), "tokens": 0, "supervised_tokens": 0}
    return {
        "sources": [account.entry() for account in accounts],
        **empty,
        "sequences": 0,
        "leaks": NO_LEAKS,
        "fill": None,
    }


def check(accounts: list[Account], max_bad_rows: float) -> None:
    """Raise DataError where a source is empty, or more of its rows are bad than is allowed."""
    for account in accounts:
        source, rows = account.source, account.rows
        bad = {reason: n for reason, n in sorted(account.dropped.items()) if reason not in BY_POLICY}
        total = sum(bad.values())
        if rows == 0:
            raise DataError(f"{source} has no rows", "name a source that has")
        if total > max_bad_rows * rows:
            worst = ", ".join(f"{n} {reason} (first: {account.examples[reason]})" for reason, n in bad.items())
            allow = "" if total == rows else f", or raise data.max_bad_rows above {total / rows:.2f}"
            raise DataError(
                f"{total} of {rows} rows of {source} cannot be used: {worst}",
                f"mend them (the quarantine says why, for each){allow}",
            )
        if account.kept == 0:
            reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(account.dropped.items()))
            raise DataError(f"no row of {source} is left ({reasons})", "see the quarantine for each row")
