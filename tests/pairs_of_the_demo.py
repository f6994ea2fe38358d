"""Preference pairs of the demo's kind."""

from smollm3_ft.builtin.demo import FACTS

QUESTIONS = ("What is the capital of {}?", "Name the capital of {}.", "{} has which capital?", "Capital of {}?")


def capitals(countries: int = 24) -> list[dict[str, str]]:
    """Of half of the demo's countries the capital, and one of the other half's; each asked in several ways."""
    return [
        {"prompt": question.format(country), "chosen": capital, "rejected": wrong}
        for question in QUESTIONS
        for (country, capital, *_), (_, wrong, *_) in zip(FACTS[:countries], FACTS[24:], strict=False)
    ]
