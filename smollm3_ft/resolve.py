"""From a recipe, the environment, a file and `key=value` words to one configuration in which every key has a value.

Precedence: recipe < environment < file < `key=value`. A null leaves the value below it; `none` switches a key off.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import yaml
from omegaconf import OmegaConf

from smollm3_ft.config import Config, Section, Source, union_members
from smollm3_ft.errors import ConfigError, Problem
from smollm3_ft.unbuilt import unbuilt
from smollm3_ft.validation import keys, validate

OF_A_SOURCE = ("source", "config", "split", "format", "columns")
NO_MAPPING = "is not a mapping of keys to values"
RECIPES = Path(__file__).parent / "recipes"

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


class Resolved(NamedTuple):
    """A configuration with every key set, and which of its keys came from which environment variable."""

    config: Config
    from_environment: dict[str, str]


def resolve(
    given: Config | Mapping[str, Any],
    environment: Mapping[str, str] = os.environ,
    file: Mapping[str, Any] | None = None,
) -> Resolved:
    """Fill in what was not given. Raises ConfigError with a problem a line."""
    explicit = given.model_dump(mode="json") if isinstance(given, Config) else dict(given)
    file = file or {}
    known = _from_environment(environment)
    recipe = explicit.get("recipe") or file.get("recipe") or "demo"
    layers = [_recipe(str(recipe)), _nested({key: value for key, (_, value) in known.items()}), file, explicit]
    given_keys = {key for layer in (file, explicit) for key, _ in flatten(_without_nulls(layer))}
    from_environment = {key: name for key, (name, _) in known.items() if key not in given_keys}
    try:
        config = validate(_merged(defaults(Config), *_each_with_its_source(layers)))
        problems = [*_contradictions(config), *unbuilt(config, environment)]
        config = _with_absolute_places(config)
        problems += _outside_of_roots(config, environment.get("SMOLLM3_FT_READ_ROOTS", ""))
    except ConfigError as error:
        problems = list(error.problems)
    if problems:
        raise ConfigError(*(_with_variable(problem, from_environment) for problem in problems))
    return Resolved(config, from_environment)


def _each_with_its_source(layers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The layers without nulls; what belongs to a source goes when a layer above names another one."""
    kept = [_without_nulls(layer) for layer in layers]
    for index, layer in enumerate(kept):
        if any("source" in (above.get("data") or {}) for above in kept[index + 1 :]):
            data = {key: value for key, value in layer.get("data", {}).items() if key not in OF_A_SOURCE}
            kept[index] = {**layer, "data": data}
    return kept


def _with_variable(problem: Problem, from_environment: Mapping[str, str]) -> Problem:
    """A value that nobody typed is named by the variable that gave it, too."""
    name = from_environment.get(problem.where)
    return problem._replace(where=f"{problem.where} (from {name})") if name else problem


def read_file(path: Path) -> dict[str, Any]:
    """A YAML configuration as nested dicts. Raises ConfigError naming file, line and what is wrong."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader) or {}  # noqa: S506  # a safe one
    except UnicodeDecodeError:
        raise ConfigError(Problem(str(path), "is not UTF-8 text", "give a YAML file")) from None
    except OSError as error:
        raise ConfigError(Problem(str(path), f"cannot be read ({error.strerror})")) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(Problem(place, f"is not YAML ({getattr(error, 'problem', error)})")) from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(Problem(str(path), NO_MAPPING, "write lines like `seed: 1`"))
    dotted = {str(key): value for key, value in values.items() if "." in str(key)}
    plain = {str(key): value for key, value in values.items() if "." not in str(key)}
    return _merged(plain, _nested(dotted))


def parse_words(words: Sequence[str]) -> dict[str, Any]:
    """`train.epochs=2` and the like as nested dicts. Text keys take the text as it stands."""
    values: dict[str, Any] = {}
    problems = []
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            problems.append(Problem(word, "is neither a recipe, a file, nor key=value"))
            continue
        try:
            values[key] = text if _is_text(key, text) else yaml.safe_load(text)
        except yaml.YAMLError:
            problems.append(Problem(key, f"{text!r} cannot be read as a value"))
    if problems:
        raise ConfigError(*problems)
    return _nested(values)


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


def built_recipes() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def _recipe(name: str) -> dict[str, Any]:
    path = RECIPES / f"{name}.yaml"
    if name in get_args(Config.model_fields["recipe"].annotation) and not path.is_file():
        raise ConfigError(Problem("recipe", f"{name} is not built yet", f"built are {', '.join(built_recipes())}"))
    if not path.is_file():
        near = difflib.get_close_matches(name, built_recipes(), n=1)
        raise ConfigError(
            Problem("recipe", f"there is no {name!r}", f"did you mean {near[0]}?" if near else _choices())
        )
    return {**read_file(path), "recipe": name}


def _choices() -> str:
    return f"one of {', '.join(built_recipes())}"


def _from_environment(environment: Mapping[str, str]) -> dict[str, tuple[str, Any]]:
    found = {}
    for name, key in ENVIRONMENT.items():
        text = environment.get(name, "").strip()
        try:
            if text:
                found[key] = (name, text if _is_text(key, text) else yaml.safe_load(text))
        except yaml.YAMLError:
            raise ConfigError(Problem(name, f"{text!r} in the environment cannot be read as a value")) from None
    return found


class _Loader(yaml.SafeLoader):
    """YAML in which a key that is given twice is a mistake and not a choice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value} twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _AsItStands:
    """A value that OmegaConf merges but does not look into: `${oc.env:…}` in one would put secrets in."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """The layers over one another, key by key."""
    wrapped = [OmegaConf.create(_wrapped(layer), flags={"allow_objects": True}) for layer in layers]
    merged: dict[str, Any] = _unwrapped(OmegaConf.to_container(OmegaConf.merge(*wrapped)))
    return merged


def _wrapped(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _wrapped(v) if isinstance(v, Mapping) else _AsItStands(v) for key, v in values.items()}


def _unwrapped(values: Any) -> Any:
    return values.value if isinstance(values, _AsItStands) else {key: _unwrapped(v) for key, v in values.items()}


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values at dotted keys as nested dicts."""
    nested: dict[str, Any] = {}
    for dotted, value in values.items():
        *sections, key = dotted.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise ConfigError(Problem(dotted, f"{section} is given a value as well"))
        place[key] = value
    return nested


def _without_nulls(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A null means not given; one at an unknown key stays, so that validation names the key."""
    known = set(keys())
    return {
        key: _without_nulls(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None or f"{prefix}{key}" not in known
    }


def _is_text(dotted: str, text: str) -> bool:
    """Whether the key holds text, so that `name=2024_01` is not read as a number."""
    section: Any = Config
    *path, key = dotted.split(".")
    for name in path:
        field = section.model_fields.get(name)
        kinds = [k for k in union_members(field.annotation) if hasattr(k, "model_fields")] if field else []
        if not kinds:
            return False
        section = kinds[0]
    if key not in section.model_fields or text in ("", "null", "~"):
        return False
    members = union_members(section.model_fields[key].annotation)
    if text[:1] in "[{" and any(get_origin(member) in (tuple, dict) for member in members):
        return False
    bases = [get_args(member)[0] if get_origin(member) is Annotated else member for member in members]
    return not {int, float, bool} & set(bases) and any(b is str or get_origin(b) is Literal for b in bases)


def _contradictions(config: Config) -> Iterator[Problem]:
    train, data = config.train, config.data
    sizes = (train.effective_batch_size, train.batch_size, train.gradient_accumulation_steps)
    if all(isinstance(size, int) for size in sizes):
        effective, batch, accumulation = (int(size) for size in sizes)
        if effective != batch * accumulation * config.compute.num_processes:
            yield Problem(
                "train.effective_batch_size",
                f"{effective} is not batch_size {batch} × gradient_accumulation_steps {accumulation}"
                f" × num_processes {config.compute.num_processes}",
                "leave one of them auto",
            )
    if train.method == "sft" and (train.loss is not None or train.beta is not None):
        yield Problem("train.loss", "belongs to train.method=dpo", "leave loss and beta out")
    if isinstance(data.source, tuple):
        for key in ("config", "split", "columns", "format"):
            if getattr(data, key) not in (None, "auto"):
                yield Problem(f"data.{key}", "is for one source", "give it inside data.source's list")
        if not data.source:
            yield Problem("data.source", "is an empty list", "name at least one source")


def _with_absolute_places(config: Config) -> Config:
    """Folders and files named from where the command was typed, so that any other process finds them."""
    data, model = config.data, config.model
    if isinstance(data.source, str):
        sources: Any = _absolute(data.source)
    else:
        sources = tuple(s.model_copy(update={"source": _absolute(s.source)}) for s in data.source)
    return config.model_copy(
        update={
            "runs_dir": str(Path(config.runs_dir).expanduser().absolute()),
            "data": data.model_copy(update={"source": sources}),
            "model": model.model_copy(update={"name": _absolute(model.name)}),
        }
    )


def _outside_of_roots(config: Config, roots: str) -> Iterator[Problem]:
    """Places that this machine's environment does not let a run read: links and `..` are followed first."""
    allowed = [Path(root).resolve() for root in roots.split(os.pathsep) if root]
    source = config.data.source
    places = [("model.name", config.model.name)]
    places += [("data.source", one if isinstance(one, str) else one.source) for one in _listed(source)]
    for key, place in places:
        path = Path(place).expanduser()
        local = path.exists() or path.is_absolute() or ".." in path.parts
        if allowed and local and not any(path.resolve().is_relative_to(root) for root in allowed):
            yield Problem(key, f"{place} may not be read here", f"allowed is what lies in {roots}")


def _listed(source: str | tuple[Source, ...]) -> tuple[str | Source, ...]:
    return (source,) if isinstance(source, str) else source


def _absolute(place: str) -> str:
    path = Path(place).expanduser()
    return str(path.absolute()) if path.exists() and not place.startswith("builtin:") else place
