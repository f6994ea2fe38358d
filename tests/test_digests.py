"""Which rows say the same: digests of what is said, and of nothing else."""

from pathlib import Path
from typing import Any

import pytest
from test_conversations import ANSWERS, ASKS, CALLING, CALLS, TOOL, read

from smollm3_ft import chat as chats
from smollm3_ft import conversations
from smollm3_ft.chat import Chat


@pytest.fixture(scope="module")
def tiny_chat(tiny: Path) -> Chat:
    return chats.load(tiny)


SAME = [
    ({"role": "assistant", "content": " 1.\n"}, True),
    ({"role": "assistant", "content": "1. "}, True),
    ({"role": "assistant", "content": "1"}, False),
    ({"role": "assistant", "content": "  1.\n  2."}, False),
]


@pytest.mark.parametrize(("answer", "same"), SAME)
def test_rows_that_say_the_same(tiny_chat: Chat, answer: dict[str, str], same: bool) -> None:
    """White space at the ends makes no other row."""
    one, other = (read({"messages": [ASKS, said]}, tiny_chat) for said in (ANSWERS, answer))
    assert (conversations.digest(one) == conversations.digest(other)) is same


def test_unicode_and_line_endings_make_no_other_row(tiny_chat: Chat) -> None:
    """An accent that is a character of its own, and Windows' line endings, say the same."""
    one, other = (read({"prompt": text, "completion": "x"}, tiny_chat) for text in ("é\na", "e\u0301\r\na"))
    assert conversations.digest(one) == conversations.digest(other)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASKS, CALLS, {"role": "tool", "content": "sun"}, ANSWERS]},
        {
            "messages": [
                ASKS,
                {**CALLS, "tool_calls": [{"name": "weather", "arguments": {"city": "Köln"}}]},
                *CALLING[2:],
            ]
        },
        {"messages": list(CALLING), "tools": [TOOL]},
        {"messages": list(CALLING), "enable_thinking": True},
    ],
)
def test_rows_that_differ_in_more_than_text(tiny_chat: Chat, row: dict[str, Any]) -> None:
    """Results, arguments, tools and the mode are part of what a row says."""
    plain = read({"messages": list(CALLING)}, tiny_chat)
    assert conversations.digest(read(row, tiny_chat)) != conversations.digest(plain)


def test_no_text_makes_one_row_of_two(tiny_chat: Chat) -> None:
    """Rows are other rows too where a text holds the characters that part texts in a digest."""
    texts = [["a\x03assistant\x02b\x03user\x02c", "d"], ["a", "b", "c", "d"]]
    rows = [[{"role": ("user", "assistant")[n % 2], "content": t} for n, t in enumerate(one)] for one in texts]
    assert len({conversations.digest(read({"messages": row}, tiny_chat)) for row in rows}) == 2


def test_a_judgement_is_part_of_what_a_row_says(tiny_chat: Chat) -> None:
    """An answer that one row calls good and another one bad is no duplicate."""
    rows = [{"prompt": "One?", "completion": "1.", "label": label} for label in (True, False, "true")]
    digests = [conversations.digest(read(row, tiny_chat, None)) for row in rows]
    assert digests[0] == digests[2] != digests[1]
