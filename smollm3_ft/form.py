"""The configuration's JSON schema as Prefect's form wants it: a field that is left empty is left out.

What is accepted stays what the models accept, but for an explicit null, which a form would send for every field that
nobody touched.
"""

from __future__ import annotations

from typing import Any

CREDENTIAL = "hf_[A-Za-z0-9]{20,}"  # of the Hub: a secret that is given in the environment alone
NONE = {"type": "string", "enum": ["none"], "const": "none", "title": "none"}
WORDS = {"integer": "number", "number": "number", "string": "text", "array": "list"}


def as_form(schema: dict[str, Any]) -> None:
    """Change a section's schema: no defaults (a form would send them, and they would win over the recipe), no nulls."""
    for field in schema.get("properties", {}).values():
        usual = field.pop("default", None)
        if usual is not None:
            field["description"] = f"{field['description']}. Usually {_shown(usual)}"
        options = [_option(one) for one in field.pop("anyOf", None) or [field]]
        kept = [one for one in options if one.get("type") != "null"]
        if len(kept) < len(options) and not any(_takes_text(one) for one in kept):
            kept.append(dict(NONE))
        field |= _one_of(kept)


def _option(option: dict[str, Any]) -> dict[str, Any]:
    """One alternative: a boolean and a constant as a list to choose from, bounds as a browser knows them, no token."""
    if option.get("type") == "boolean":
        option["enum"] = [True, False]
    if "const" in option:
        option |= {"enum": [option["const"]], "title": option["const"]}
    if "exclusiveMinimum" in option:
        option["minimum"] = option["exclusiveMinimum"] + (option["type"] == "integer")
    if "exclusiveMaximum" in option:
        option["maximum"] = option["exclusiveMaximum"]
    for inner in (option, option.get("items", {}), option.get("additionalProperties", {})):
        if isinstance(inner, dict) and _takes_text(inner):  # a server keeps every parameter that it takes
            inner["not"] = {"type": "string", "pattern": CREDENTIAL}
    return option


def _takes_text(option: dict[str, Any]) -> bool:
    """Whether `none` may be written there."""
    return option.get("type") == "string" and "enum" not in option


def _one_of(options: list[dict[str, Any]]) -> dict[str, Any]:
    """The alternatives as one field where that can be, or else as one tab each."""
    if len(options) == 1:
        return options[0]
    if all("enum" in one for one in options):
        return {"enum": [value for one in options for value in one["enum"]]}
    if any(one.get("type") == "object" for one in options):  # a tab cannot hold a mapping: a field for JSON
        mapping, *_ = options
        return {"if": {"type": "object"}, "then": mapping, "else": {"enum": ["none"]}}
    return {"anyOf": [_named(one) for one in options]}


def _named(option: dict[str, Any]) -> dict[str, Any]:
    """An alternative with the words on its tab."""
    return option if option.get("type") not in WORDS else {"title": WORDS[option["type"]], **option}


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value}"
