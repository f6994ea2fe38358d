"""Where a configuration's values come from, each as nested dicts: recipes, the environment, files, words.

Text is taken as it stands: where a key holds text, `2024_01` is no number, and `${…}` is looked up nowhere.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from omegaconf import OmegaConf

from smollm3_ft.config import Config, Section, union_members
from smollm3_ft.errors import ConfigError, Problem
from smollm3_ft.validation import keys, sections_in

NO_MAPPING = "is not a mapping of keys to values"
RECIPES = Path(__file__).parent / "recipes"
OF_A_SOURCE = ("source", "config", "split", "format", "columns")  # keys of `data` that say how one source is read
UNREADABLE = (yaml.YAMLError, ValueError, TypeError, RecursionError)

# Variables that people know from other tools; an explicit key wins over them.
ENVIRONMENT = {
    "MODEL_NAME": "model.name",
    "DATASET_NAME": "data.source",
    "BATCH_SIZE": "train.batch_size",
    "GRADIENT_ACCUMULATION_STEPS": "train.gradient_accumulation_steps",
    "LEARNING_RATE": "train.learning_rate",
    "MAX_EPOCHS": "train.epochs",
    "MAX_SEQ_LENGTH": "data.max_length",
    "TRACKIO_SPACE_ID": "monitor.trackio",
    "TRACKIO_SERVER_URL": "monitor.trackio",
    "TRACKIO_DATASET_REPO": "monitor.dataset",
    "EXPERIMENT_NAME": "name",
}


def of_command(words: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a command's words and the file among them say: `[RECIPE or FILE.yaml] [key=value ...]`."""
    file: dict[str, Any] = {}
    first = next((word for word in words if "=" not in word), None)
    if first is not None:
        at = words.index(first)
        words = [*words[:at], *words[at + 1 :]]
        if Path(first).is_file() or first.endswith((".yaml", ".yml")):
            file = read_file(Path(first))
        else:
            if any(word.startswith("recipe=") for word in words):
                raise ConfigError(Problem(first, "is a second recipe", "name one"))
            words = [f"recipe={first}", *words]
    return parse_words(words), file


def read_file(path: Path) -> dict[str, Any]:
    """A YAML configuration; dotted keys are as good as sections. Raises ConfigError naming file, line and fault."""
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=_Loader)
        values = {} if node is None else _constructed(node, "")
    except UnicodeDecodeError:
        raise ConfigError(Problem(str(path), "is not UTF-8 text", "give a YAML file")) from None
    except OSError as error:
        raise ConfigError(Problem(str(path), f"cannot be read ({error.strerror})", "see where it is")) from None
    except UNREADABLE as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        what = f"is not YAML ({getattr(error, 'problem', error)})"
        raise ConfigError(Problem(place, what, "mend that line; `key: value` with spaces before it, no tabs")) from None
    if not isinstance(values, dict):
        raise ConfigError(Problem(str(path), NO_MAPPING, "write lines like `seed: 1`"))
    return _merged_pairs(values)


def parse_words(words: Sequence[str]) -> dict[str, Any]:
    """`train.epochs=2` and the like."""
    values: dict[str, Any] = {}
    problems = []
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            problems.append(Problem(word, "is neither a recipe, a file, nor key=value", "write train.epochs=2"))
            continue
        try:
            values[key] = _value(key, text)
        except UNREADABLE:
            remedy = "write it as in YAML, and quote the word for the shell"
            problems.append(Problem(key, f"{text!r} cannot be read as a value", remedy))
    if problems:
        raise ConfigError(*problems)
    return nested(values)


def from_environment(environment: Mapping[str, str]) -> dict[str, tuple[str, Any]]:
    """For each key that a variable gives: the variable's name, and the value."""
    found = {}
    for name, key in ENVIRONMENT.items():
        text = environment.get(name, "").strip()
        try:
            if text:
                found[key] = (name, _value(key, text))
        except UNREADABLE:
            what = f"{text!r} in the environment cannot be read as a value"
            raise ConfigError(Problem(name, what, "mend it, or unset the variable")) from None
    return found


def recipe(name: str) -> dict[str, Any]:
    """A recipe's values. Raises ConfigError for one that is not there."""
    path = RECIPES / f"{name}.yaml"
    if not path.is_file():
        near = difflib.get_close_matches(name, built_recipes(), n=1)
        raise ConfigError(
            Problem("recipe", f"there is no {name!r}", f"did you mean {near[0]}?" if near else _choices())
        )
    return {**read_file(path), "recipe": name}


def _choices() -> str:
    return f"one of {', '.join(built_recipes())}"


def built_recipes() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def defaults(section: type[Section]) -> dict[str, Any]:
    """Every key's value when no recipe says otherwise, nested."""
    values: dict[str, Any] = {}
    for key, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            values[key] = defaults(kind)
        else:
            default = field.get_default(call_default_factory=True)
            values[key] = "none" if default is None and key != "name" else default
    return values


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values at dotted keys as nested dicts."""
    nested: dict[str, Any] = {}
    for dotted, value in values.items():
        *sections, key = dotted.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise ConfigError(Problem(dotted, f"{section} is given a value as well", "leave one of the two out"))
        place[key] = value
    return nested


def without_nulls(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A null means not given; one at an unknown key stays, so that validation names the key."""
    known = set(keys())
    return {
        key: without_nulls(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None or f"{prefix}{key}" not in known
    }


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """The layers over one another, key by key."""
    wrapped = [OmegaConf.create(_wrapped(layer), flags={"allow_objects": True}) for layer in layers]
    values: dict[str, Any] = _unwrapped(OmegaConf.to_container(OmegaConf.merge(*wrapped)))
    return values


def _wrapped(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _wrapped(v) if isinstance(v, Mapping) else _AsItStands(v) for key, v in values.items()}


def _unwrapped(values: Any) -> Any:
    return values.value if isinstance(values, _AsItStands) else {key: _unwrapped(v) for key, v in values.items()}


class _AsItStands:
    """A value that OmegaConf merges but does not look into: `${oc.env:…}` in one would put secrets in."""

    def __init__(self, value: Any) -> None:
        self.value = value


class _Loader(yaml.SafeLoader):
    """YAML without dates: they are text."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # as yaml declares it
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _constructed(node: yaml.Node, dotted: str) -> Any:
    """A node's value; a plain scalar at a key that holds text is taken as it is written, a key given twice refused."""
    if isinstance(node, yaml.MappingNode):
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else ""
            if not key or key in values:
                what = f"the key {key} twice" if key else "a key that is no text"
                raise yaml.constructor.ConstructorError(None, None, what, key_node.start_mark)
            values[key] = _constructed(value_node, f"{dotted}.{key}" if dotted else key)
        return values
    if isinstance(node, yaml.SequenceNode):
        return [_constructed(item, dotted) for item in node.value]
    assert isinstance(node, yaml.ScalarNode)
    if node.style is None and _is_text(dotted, node.value):
        return node.value
    return _Loader("").construct_object(node)


def _merged_pairs(values: Mapping[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in values.items() if "." not in key}
    return merged(plain, nested({key: value for key, value in values.items() if "." in key}))


def _value(dotted: str, text: str) -> Any:
    """What a word says at a key: the text itself where the key holds text."""
    return text if _is_text(dotted, text) else yaml.load(text, Loader=_Loader)  # noqa: S506  # a safe one


def _is_text(dotted: str, text: str) -> bool:
    """Whether the key holds text, so that `name=2024_01` is not read as a number."""
    section: Any = Config
    *path, key = dotted.split(".")
    for name in path:
        field = section.model_fields.get(name)
        section = next(sections_in(field.annotation), None) if field else None
        if section is None:
            return False
    if key not in section.model_fields or text in ("", "null", "~"):
        return False
    members = union_members(section.model_fields[key].annotation)
    if text[:1] in "[{" and any(get_origin(member) in (tuple, dict) for member in members):
        return False
    bases = [get_args(member)[0] if get_origin(member) is Annotated else member for member in members]
    return not {int, float, bool} & set(bases) and any(b is str or get_origin(b) is Literal for b in bases)
