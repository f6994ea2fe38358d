"""What a sweep searches: its section of the configuration, checked by the keys' own bounds before anything runs."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import Field, PositiveInt, field_validator
from pydantic.fields import FieldInfo

from smollm3_ft import layers, resolve
from smollm3_ft.config import OF_PAIRS, Auto, Config, Section, pool_of, union_members
from smollm3_ft.errors import ConfigError, Problem
from smollm3_ft.validation import keys, sections_in, validated

NOT_SEARCHED = ("recipe", "name", "runs_dir", "monitor", "publish", "compute")  # they do not say what is trained
EXAMPLE = "as in sweep.space.train.learning_rate.low=1e-6 sweep.space.train.learning_rate.high=1e-4"
Choice = bool | int | float | str


class Values(Section):
    """The values that a key may take: a range of numbers, or a list of choices."""

    low: float | None = Field(None, description="The smallest value of a range")
    high: float | None = Field(None, description="The largest value of a range")
    log: bool = Field(False, description="As many trials from 1 to 10 as from 10 to 100")
    choices: tuple[Choice, ...] | None = Field(None, description="Values, instead of a range")


class Sweep(Section):
    """A search: what is varied, how often, and by which validation metric a trial is judged."""

    trials: PositiveInt = Field(20, description="Trainings in all")
    parallel: PositiveInt | Auto = Field("auto", description="Trials at a time, no more than the pool has workers")
    metric: Literal["loss", "token_accuracy", "reward_accuracy", "reward_margin"] = Field(
        "loss", description="Of the validation rows; a loss is to be small, the others large"
    )
    pruner: Literal["median", "none"] = Field("median", description="Ends a trial that is worse than the median")
    publish_best: bool = Field(False, description="Publish the best trial as publish says")
    space: dict[str, Values] = Field(default_factory=dict, description="{key: {low, high, log} or {choices}}")

    @field_validator("space", mode="before")
    @classmethod
    def _with_dotted_keys(cls, space: Any) -> Any:
        return dict(sorted(_dotted(space).items())) if isinstance(space, Mapping) else space

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        return "minimize" if self.metric == "loss" else "maximize"


class _Whole(Section):
    """What validation wants to know the section's name of."""

    sweep: Sweep = Field(default_factory=Sweep)


def read(*given: Mapping[str, Any]) -> Sweep:
    """The section `sweep` of several layers, the last one winning. Raises ConfigError naming each wrong key."""
    sections = [dict(_mapping("sweep", layer.get("sweep"))) for layer in given]
    spaces = [_dotted(_mapping("sweep.space", section.pop("space", None))) for section in sections]
    problems = [problem for space in spaces for problem in _shapes(space)]
    if problems:
        raise ConfigError(*problems)
    space: dict[str, dict[str, Any]] = {}
    for key, values in ((key, values) for one in spaces for key, values in one.items()):
        space[key] = {**space.get(key, {}), **values}
    return validated({"sweep": {**layers.merged(*sections), "space": space}}, _Whole).sweep


def check(config: Config, sweep: Sweep) -> None:
    """Raise ConfigError where the search cannot work, a problem a line. `config` has every key."""
    problems = [*_of_the_sweep(config, sweep)]
    for key, values in sweep.space.items():
        problems += _of_a_key(config, key, values)
    if problems:
        raise ConfigError(*problems)


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """The configuration with some keys set. Raises ConfigError where they do not go together."""
    return resolve.resolve(layers.merged(config.model_dump(mode="json"), layers.nested(values))).config


def is_whole(key: str) -> bool:
    """Whether a key holds whole numbers alone."""
    return float not in _kinds(key)


def _dotted(space: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{train: {learning_rate: …}}` and `{train.learning_rate: …}` as the latter."""
    found: dict[str, Any] = {}
    for key, value in space.items():
        if isinstance(value, Mapping) and value and not set(value) & set(Values.model_fields):
            found |= _dotted(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _mapping(where: str, value: Any) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise ConfigError(Problem(where, f"is {value!r}, and no mapping of keys to values", EXAMPLE))
    return value or {}


def _shapes(space: Mapping[str, Any]) -> Iterator[Problem]:
    known = list(Values.model_fields)
    for key, values in space.items():
        if not isinstance(values, Mapping):
            yield Problem(f"sweep.space.{key}", f"is {values!r}", "give {low: …, high: …} or {choices: […]}")
            continue
        for name in set(values) - set(known):
            near = difflib.get_close_matches(str(name), known, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"one of {', '.join(known)}"
            yield Problem(f"sweep.space.{key}.{name}", "there is no such key", remedy)


def _of_the_sweep(config: Config, sweep: Sweep) -> Iterator[Problem]:
    if not sweep.space:
        yield Problem("sweep.space", "is empty", f"give a key with its values, {EXAMPLE}")
    if config.data.validation is None:
        yield Problem("sweep.metric", "is measured on validation rows, and there are none", "give data.validation")
    if sweep.metric in OF_PAIRS and config.train.method != "dpo":
        yield Problem("sweep.metric", f"{sweep.metric} is of train.method=dpo", "use loss or token_accuracy")
    if sweep.parallel not in ("auto", 1) and pool_of(config) is None:
        what = f"{sweep.parallel} trials at a time need workers"
        yield Problem("sweep.parallel", what, "name their pool (compute.pool=cuda), or leave it auto")
    if sweep.publish_best and config.publish.target == "none":
        yield Problem("sweep.publish_best", "publish.target is none", "say where to publish it")


def _of_a_key(config: Config, key: str, values: Values) -> Iterator[Problem]:
    where = f"sweep.space.{key}"
    if _field(key) is None or any(key == part or key.startswith(f"{part}.") for part in NOT_SEARCHED):
        searched = [one for one in keys() if _field(one) is not None and one.split(".")[0] not in NOT_SEARCHED]
        near = difflib.get_close_matches(key, searched, n=1, cutoff=0.5)
        if key in set(keys()):
            what = "does not say what is trained" if _field(key) else "is a section; name a key of it"
            yield Problem(where, what, "search a key of what is trained, such as train.learning_rate")
        else:
            yield Problem(where, "there is no such key", f"did you mean {near[0]}?" if near else "")
        return
    ends = (values.low, values.high)
    if (values.choices is None) == (ends == (None, None)) or (values.choices is None and None in ends):
        yield Problem(where, "needs either low and high, or choices", "give {low: …, high: …} or {choices: […]}")
        return
    if values.choices is not None:
        tried: tuple[Any, ...] = values.choices
        if len(set(map(repr, tried))) < 2:
            yield Problem(where, "has fewer than two choices", "give more, or set the key itself")
            return
    else:
        assert values.low is not None
        assert values.high is not None
        wrong = _of_a_range(key, values.low, values.high, values.log)
        if wrong:
            yield Problem(where, *wrong)
            return
        tried = tuple(int(end) if is_whole(key) else end for end in (values.low, values.high))
    for value in tried:
        yield from _of_a_value(config, key, value)


def _of_a_range(key: str, low: float, high: float, log: bool) -> tuple[str, str] | None:
    if not {int, float} & _kinds(key):
        return f"{key} holds no number", "give choices"
    if low >= high:
        return f"low {low:g} is not below high {high:g}", ""
    if log and low <= 0:
        return f"a logarithm of low {low:g} there is none", "raise it above 0, or leave log out"
    if is_whole(key) and (low % 1 or high % 1):
        return f"{key} holds whole numbers", "give whole ends"
    return None


def _of_a_value(config: Config, key: str, value: Any) -> Iterator[Problem]:
    try:
        with_values(config, {key: value})
    except ConfigError as error:
        for problem in error.problems:
            if problem.where == key:  # with other keys' values it may go well with them
                yield problem._replace(where=f"sweep.space.{key}")


def _field(key: str) -> FieldInfo | None:
    """The field at a dotted key; None for a section, and where there is none."""
    section: type[Section] = Config
    *path, last = key.split(".")
    for name in path:
        field = section.model_fields.get(name)
        inner = next(sections_in(field.annotation), None) if field else None
        if inner is None:
            return None
        section = inner
    field = section.model_fields.get(last)
    return None if field is None or any(sections_in(field.annotation)) else field


def _kinds(key: str) -> set[Any]:
    """The types of number or text that a key may hold."""
    field = _field(key)
    members = union_members(field.annotation) if field else ()
    return {get_args(member)[0] if get_origin(member) is Annotated else member for member in members}
