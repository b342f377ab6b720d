"""Write TOML: the standard library reads it only. Covers what our cards and settings hold."""

import math
from collections.abc import Mapping
from typing import Any


def dump_toml(values: Mapping[str, Any]) -> str:
    r"""Give `values` as a TOML document: plain keys first, then one section per table.

    >>> print(dump_toml({"seed": 1, "weights": {"pepsi": 'a"b'}}), end="")
    seed = 1
    <BLANKLINE>
    [weights]
    pepsi = "a\"b"
    """
    return "\n".join(_lines(values, ())).strip("\n") + "\n"


def _lines(values: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    tables = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    lines = [f"{_key(k)} = {_value(v)}" for k, v in values.items() if k not in tables and v is not None]
    if path and (lines or not tables):
        lines = ["", f"[{'.'.join(map(_key, path))}]", *lines]
    for key, table in tables.items():
        lines += _lines(table, (*path, key))
    return lines


def _key(key: str) -> str:
    bare = key and all(c.isascii() and (c.isalnum() or c in "-_") for c in key)
    return key if bare else _string(key)


def _string(text: str) -> str:
    named = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return '"' + "".join(named.get(c) or (c if c.isprintable() else f"\\U{ord(c):08x}") for c in text) + '"'


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return _string(value)
        case int():
            return str(value)
        case float():
            return repr(value) if math.isfinite(value) else str(value)
        case list() | tuple():
            return "[" + ", ".join(map(_value, value)) + "]"
        case Mapping():  # a table inside a list
            return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + " }"
    msg = f"TOML has no type for {type(value).__name__}"
    raise TypeError(msg)
