"""The shipped data set: capital, continent and currency of 48 countries, each asked in many phrasings.

Every fact occurs in training; the phrasings of the validation and the test questions do not. The answer is
the bare name, so that exact match on the whole answer is a fair score.

``python -m smollm3_ft.builtin.demo`` writes the files again, byte for byte the same.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice, product
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "demo"

RELATIONS = ("capital", "continent", "currency")

# Left out: countries with several capitals or currencies, on two continents or on one of several names.
FACTS = tuple(
    tuple(line.split("|"))
    for line in """\
Algeria|Algiers|Africa|Algerian dinar
Argentina|Buenos Aires|South America|Argentine peso
Austria|Vienna|Europe|Euro
Bangladesh|Dhaka|Asia|Bangladeshi taka
Belgium|Brussels|Europe|Euro
Botswana|Gaborone|Africa|Botswana pula
Brazil|Brasília|South America|Brazilian real
Canada|Ottawa|North America|Canadian dollar
Chile|Santiago|South America|Chilean peso
Colombia|Bogotá|South America|Colombian peso
Costa Rica|San José|North America|Costa Rican colón
Denmark|Copenhagen|Europe|Danish krone
Ethiopia|Addis Ababa|Africa|Ethiopian birr
Finland|Helsinki|Europe|Euro
France|Paris|Europe|Euro
Germany|Berlin|Europe|Euro
Ghana|Accra|Africa|Ghanaian cedi
Greece|Athens|Europe|Euro
Guatemala|Guatemala City|North America|Guatemalan quetzal
Hungary|Budapest|Europe|Hungarian forint
Iceland|Reykjavik|Europe|Icelandic króna
India|New Delhi|Asia|Indian rupee
Iraq|Baghdad|Asia|Iraqi dinar
Ireland|Dublin|Europe|Euro
Italy|Rome|Europe|Euro
Jamaica|Kingston|North America|Jamaican dollar
Japan|Tokyo|Asia|Japanese yen
Jordan|Amman|Asia|Jordanian dinar
Kenya|Nairobi|Africa|Kenyan shilling
Mexico|Mexico City|North America|Mexican peso
Morocco|Rabat|Africa|Moroccan dirham
Nepal|Kathmandu|Asia|Nepalese rupee
Nigeria|Abuja|Africa|Nigerian naira
Norway|Oslo|Europe|Norwegian krone
Oman|Muscat|Asia|Omani rial
Pakistan|Islamabad|Asia|Pakistani rupee
Peru|Lima|South America|Peruvian sol
Poland|Warsaw|Europe|Polish złoty
Portugal|Lisbon|Europe|Euro
Qatar|Doha|Asia|Qatari riyal
Romania|Bucharest|Europe|Romanian leu
South Korea|Seoul|Asia|South Korean won
Spain|Madrid|Europe|Euro
Sweden|Stockholm|Europe|Swedish krona
Thailand|Bangkok|Asia|Thai baht
Tunisia|Tunis|Africa|Tunisian dinar
Uruguay|Montevideo|South America|Uruguayan peso
Vietnam|Hanoi|Asia|Vietnamese dong""".splitlines()
)

TRAIN = {
    "capital": (
        "What is the capital of {}?",
        "What's the capital of {}?",
        "What is the capital city of {}?",
        "What is {}'s capital?",
        "Which city is the capital of {}?",
        "Name the capital of {}.",
        "Tell me the capital of {}.",
        "Give the capital city of {}.",
        "Do you know the capital of {}?",
        "Please name the capital city of {}.",
        "I forgot the capital of {}. What is it?",
        "For {}, what is the capital?",
        "{}: which city is its capital?",
        "{} has which city as its capital?",
        "When I travel to {}, which city is the capital there?",
        "Capital of {}?",
        "quick question: what's the capital city in {}",
        "Write down the name of the capital of {}.",
        "Can you tell me the capital of {}?",
        "I would like to know the capital of {}.",
        "Give me the capital of {}.",
        "Could you give me the capital of {}?",
        "I want the name of {}'s capital.",
        "My question is about {}: what is its capital city?",
        "What city is {}'s capital?",
        "Tell me what the capital of {} is.",
    ),
    "continent": (
        "What continent is {} in?",
        "What's the continent of {}?",
        "Which continent is {} on?",
        "What is {}'s continent?",
        "On which continent is {}?",
        "On which continent does {} lie?",
        "Name the continent of {}.",
        "Tell me the continent that {} is in.",
        "Give the continent of {}.",
        "Do you know which continent {} belongs to?",
        "Please name the continent where {} lies.",
        "I forgot which continent {} is in. What is it?",
        "For {}, what is the continent?",
        "{}: which continent is it on?",
        "{} lies on which continent?",
        "When I travel to {}, which continent am I on?",
        "Continent of {}?",
        "quick question: what continent is {} on",
        "Can you tell me which continent {} is in?",
        "I would like to know the continent of {}.",
        "Give me the continent of {}.",
        "Could you give me the continent of {}?",
        "I want the name of {}'s continent.",
        "My question is about {}: what is its continent?",
        "What continent is {} part of?",
        "Tell me what continent {} lies in.",
    ),
    "currency": (
        "What is the currency of {}?",
        "What's the currency of {}?",
        "What currency is used in {}?",
        "What is {}'s currency?",
        "Which currency does {} use?",
        "Name the currency of {}.",
        "Tell me the currency of {}.",
        "Give the currency that {} uses.",
        "Do you know the currency of {}?",
        "Please name the currency used in {}.",
        "I forgot the currency of {}. What is it?",
        "For {}, what is the currency?",
        "{}: which currency do people use there?",
        "{} uses which currency?",
        "When I travel to {}, which currency do I need?",
        "Currency of {}?",
        "quick question: what currency do they use in {}",
        "What money do people pay with in {}?",
        "Can you tell me the currency of {}?",
        "I would like to know the currency of {}.",
        "Give me the currency of {}.",
        "Could you give me the currency of {}?",
        "I want the name of {}'s currency.",
        "My question is about {}: what is its currency?",
        "What currency do shops in {} take?",
        "Tell me what the currency of {} is.",
    ),
}

# Instructions whose country stands in the Alpaca ``input`` field.
TRAIN_INPUT = {
    "capital": (
        "Name the capital of the country below.",
        "What is the capital of this country?",
        "Give the capital city of the given country.",
        "Which city is this country's capital?",
    ),
    "continent": (
        "Name the continent of the country below.",
        "What continent is this country in?",
        "Give the continent of the given country.",
        "Which continent does this country belong to?",
    ),
    "currency": (
        "Name the currency of the country below.",
        "What is the currency of this country?",
        "Give the currency of the given country.",
        "Which currency does this country use?",
    ),
}

VALIDATION = {
    "capital": (
        "Please tell me the capital of {}.",
        "Which city is {}'s capital?",
        "Do you know what the capital city of {} is?",
    ),
    "continent": (
        "Please tell me which continent {} is in.",
        "Which continent does {} belong to?",
        "Do you know what continent {} is on?",
    ),
    "currency": (
        "Please tell me the currency of {}.",
        "Which currency is used in {}?",
        "Do you know what the currency of {} is?",
    ),
}

TEST = {
    "capital": (
        "Which city is the capital city of {}?",
        "Please give me the capital of {}.",
        "Tell me: what is {}'s capital city?",
        "What city is the capital of {}?",
        "I want to know the capital of {}.",
    ),
    "continent": (
        "Which continent is {} part of?",
        "Please give me the continent of {}.",
        "Tell me: what is {}'s continent?",
        "What continent does {} lie on?",
        "I want to know which continent {} is on.",
    ),
    "currency": (
        "Which currency do people use in {}?",
        "Please give me the currency of {}.",
        "Tell me: what is {}'s currency?",
        "What currency does {} use?",
        "I want to know the currency of {}.",
    ),
}

SYSTEM = ("You are a helpful assistant.", "Answer with the name only.", "You know a lot about the world.")
TWO_TURN_ROWS, SYSTEM_ROWS, ONE_TURN_ROWS, ALPACA_ROWS, PROMPT_ROWS = 300, 240, 760, 430, 570

Pair = tuple[str, str]  # a question and its answer
Row = dict[str, Any]
Phrasings = Mapping[str, Sequence[str]]  # by relation; {} stands for the country


def digest(text: str) -> str:
    """A fixed pseudo-random sort key: the same on every machine and Python version."""
    return hashlib.sha256(text.encode()).hexdigest()


def pairs(phrasings: Phrasings) -> list[Pair]:
    """Every phrasing of every fact, in a fixed shuffled order."""
    made = [
        (phrasing.format(fact[0]), fact[1 + column])
        for column, relation in enumerate(RELATIONS)
        for phrasing, fact in product(phrasings[relation], FACTS)
    ]
    return sorted(made, key=lambda pair: digest(pair[0]))


def held_out(phrasings: Phrasings, rows: int) -> list[Row]:
    """That many one-turn rows, in which no fact is asked twice before every fact has been asked once."""
    chosen = []
    for (column, relation), fact in product(enumerate(RELATIONS), FACTS):
        asked = sorted((phrasing.format(fact[0]) for phrasing in phrasings[relation]), key=digest)
        chosen += [(turn, digest(q), q, fact[1 + column]) for turn, q in enumerate(asked)]
    return [messages_row([(question, answer)]) for _, _, question, answer in sorted(chosen)[:rows]]


def messages_row(turns: Iterable[Pair], system: str | None = None) -> Row:
    """A conversation of these question-and-answer turns, after a system prompt if one is given."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages}


def shuffled(row: Row) -> str:
    """The sort key that mixes the kinds of rows in a file, so that its head shows them all."""
    return digest(json.dumps(row))


def files() -> dict[str, list[Row]]:
    """The rows of each file by its name; a training question stands in one row of one file."""
    plain = iter(pairs(TRAIN))
    conversations = [messages_row([next(plain), next(plain)]) for _ in range(TWO_TURN_ROWS)]
    conversations += [messages_row([next(plain)], SYSTEM[row % len(SYSTEM)]) for row in range(SYSTEM_ROWS)]
    conversations += [messages_row([next(plain)]) for _ in range(ONE_TURN_ROWS)]
    alpaca = [{"instruction": q, "input": "", "output": a} for q, a in islice(plain, ALPACA_ROWS)]
    for (column, relation), fact in product(enumerate(RELATIONS), FACTS):
        for asked in TRAIN_INPUT[relation]:
            alpaca.append({"instruction": asked, "input": fact[0], "output": fact[1 + column]})
    prompts = [{"prompt": q, "completion": a} for q, a in islice(plain, PROMPT_ROWS)]
    return {
        "train-messages.jsonl": sorted(conversations, key=shuffled),
        "train-alpaca.jsonl": sorted(alpaca, key=shuffled),
        "train-prompt_completion.jsonl": prompts,
        "validation.jsonl": held_out(VALIDATION, rows=100),
        "test.jsonl": held_out(TEST, rows=200),
    }


def generate(folder: Path) -> None:
    """Writes every file of the data set into the folder, byte for byte the same each time."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files().items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / name).write_bytes(text.encode())


if __name__ == "__main__":
    generate(FOLDER)
