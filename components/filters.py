"""Haystack's filter language -> SQL over the store's `documents` table.

The meaning is that of `haystack.utils.filters.document_matches_filter`, with two differences. Where that raises because
a document's value can't be ordered against the filter's (a string against a number), the document just doesn't match.
And only a full ISO date is a date (YYYY-MM-DD, time and zone if you like); Haystack orders "7" as this month's 7th.

Strings with a NUL character are cut at it by SQLite's JSON functions, so a filter sees only what stands before it.
"""

from __future__ import annotations

import json
import math
import re
import sqlite3
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

from haystack.errors import FilterError

#: Document fields that only == None and != None can ask about.
_OPAQUE = ("embedding", "sparse_embedding", "blob")
#: The document fields, which are columns, and the JSON type that each compares as.
_TYPES = {"id": "text", "content": "text", "score": "real", "meta": "object"} | dict.fromkeys(_OPAQUE, "blob")
_ISO_DATE = re.compile(r"\d{4}-\d\d-\d\d($|[Tt ])")
#: JSON text in SQL paths has no escapes that all SQLite versions agree on; keys with these characters go the slow way.
_ESCAPED = re.compile(r'["\\\x00-\x1f]')


class Sql(NamedTuple):
    """A piece of SQL and the values of its `?` in order."""

    text: str
    params: tuple[Any, ...] = ()


class _Field(NamedTuple):
    """value: the SQL value, as json_extract gives it; type: its JSON type, as json_type names it. Missing: NULL."""

    value: Sql
    type: Sql


def filters_to_sql(filters: dict[str, Any]) -> Sql:
    """The condition that a document matches `filters`; it is 0 or 1, never NULL.

    :raises FilterError: if the filter is malformed.
    """
    if not isinstance(filters, dict):
        raise FilterError(f"A filter is a dictionary, not {filters!r}.")
    return _comparison(filters) if "field" in filters else _logic(filters)


def meta_value_sql(name: str) -> Sql:
    """The JSON text of the meta value `name` ("a.b" or "meta.a.b"), NULL where it is missing."""
    return _sql("{} -> {}", *_meta_path(name.removeprefix("meta.").split(".")))


def register_functions(connection: sqlite3.Connection) -> None:
    """Give a connection the functions that the SQL of this module calls."""
    connection.create_function("needle_pick", 2, _pick, deterministic=True)
    connection.create_function("needle_equal", 2, _json_equal, deterministic=True)
    connection.create_function("needle_date_order", 2, _date_order, deterministic=True)


def _logic(condition: dict[str, Any]) -> Sql:
    operator, conditions = _get(condition, "operator"), _get(condition, "conditions")
    if not isinstance(conditions, list):
        raise FilterError(f"'conditions' must be a list of filters, not {conditions!r}.")
    parts = [filters_to_sql(c) for c in conditions]
    match operator:
        case "AND":
            return _join("AND", parts) if parts else Sql("1")
        case "OR":
            return _join("OR", parts) if parts else Sql("0")
        case "NOT":
            return _sql("NOT {}", _join("AND", parts)) if parts else Sql("0")
    raise FilterError(f"Unknown logical operator {operator!r}. Valid operators are: AND, NOT, OR.")


def _comparison(condition: dict[str, Any]) -> Sql:
    name, operator, value = (_get(condition, key) for key in ("field", "operator", "value"))
    if not isinstance(name, str):
        raise FilterError(f"'field' must be a string, not {name!r}.")
    if name in _OPAQUE and value is not None:
        raise FilterError(f"'{name}' can only be compared with None, not with {value!r}.")
    field = _field(name)
    # SQL's third truth value ends here: NULL counts as no match, and as a match of the negated operators.
    match operator:
        case "==":
            return _sql("(({}) IS TRUE)", _equal(field, value))
        case "!=":
            return _sql("(({}) IS NOT TRUE)", _equal(field, value))
        case "in":
            return _sql("(({}) IS TRUE)", _in(field, value))
        case "not in":
            return _sql("(({}) IS NOT TRUE)", _in(field, value))
        case ">" | ">=" | "<" | "<=":
            return _sql("(({}) IS TRUE)", _ordered(field, operator, value))
    raise FilterError(f"Unknown comparison operator {operator!r}. Valid operators are: ==, !=, >, >=, <, <=, in, not in.")


def _equal(field: _Field, value: Any) -> Sql:
    match value:
        case None:
            return _sql("{} IS NULL", field.value)
        case bool() | int() | float():
            return _sql("{} = {}", field.value, _param(value))
        case datetime():
            return _date(field, "=", value.isoformat())
        case str() if _parse_iso(value) is not None:
            same_text = _sql("{} = {} AND {} = 'text'", field.value, _param(value), field.type)
            return _sql("{} OR {}", same_text, _date(field, "=", value))
        case str():
            # The type sets a string apart from an array or object, whose value is its JSON text.
            return _sql("{} = {} AND {} = 'text'", field.value, _param(value), field.type)
        case list() | dict():
            return _sql(
                "CASE WHEN {} IN ('array', 'object') THEN needle_equal({}, {}) END",
                field.type,
                field.value,
                Sql("?", (_json(value),)),
            )
    raise FilterError(f"Can't compare with {value!r} of type {type(value).__name__}; use what JSON can hold.")


def _in(field: _Field, values: Any) -> Sql:
    if not isinstance(values, list):
        raise FilterError(f"'in' and 'not in' need a list, not {values!r}.")
    plain = [v for v in values if _is_plain(v)]
    # One parameter however long the list is: SQLite limits their number.
    listed = _sql(
        "{} IN (SELECT value FROM json_each({})) AND {} NOT IN ('array', 'object')",
        field.value,
        Sql("?", (_json(plain),)),
        field.type,
    )
    return _join("OR", [_sql("({})", part) for part in (listed, *(_equal(field, v) for v in values if not _is_plain(v)))])


def _ordered(field: _Field, operator: str, value: Any) -> Sql:
    match value:
        case None:
            return Sql("0")
        case bool() | int() | float():
            number = "{} IN ('integer', 'real', 'true', 'false')"
            return _sql(f"{number} AND {{}} {operator} {{}}", field.type, field.value, _param(value))
        case datetime():
            return _date(field, operator, value.isoformat())
        case str() if _parse_iso(value) is not None:
            return _date(field, operator, value)
    raise FilterError(f"'{operator}' compares with a number or an ISO date (YYYY-MM-DD...), not with {value!r}.")


def _date(field: _Field, operator: str, iso: str) -> Sql:
    order = f"CASE WHEN {{}} = 'text' THEN needle_date_order({{}}, {{}}) {operator} 0 END"
    return _sql(order, field.type, field.value, _param(iso))


def _field(name: str) -> _Field:
    head, *keys = name.split(".")
    if not keys and name in _TYPES:
        # The + takes a column's affinity away, which would make '1' equal 1.
        column = f"+documents.{name}"
        return _Field(Sql(column), Sql(f"iif({column} IS NULL, NULL, '{_TYPES[name]}')"))
    if keys and head != "meta":
        return _Field(Sql("NULL"), Sql("NULL"))
    source, path = _meta_path(keys or [name])
    return _Field(_sql("json_extract({}, {})", source, path), _sql("json_type({}, {})", source, path))


def _meta_path(keys: list[str]) -> tuple[Sql, Sql]:
    """Where a meta value is: a JSON text and the path in it."""
    if any(_ESCAPED.search(key) for key in keys):
        return Sql("needle_pick(documents.meta, ?)", (json.dumps(keys),)), Sql("'$[0]'")
    return Sql("documents.meta"), _param("$" + "".join(f'."{key}"' for key in keys))


def _sql(template: str, *parts: Sql) -> Sql:
    """Fill the `{}` of a template with pieces; their parameters follow in the same order."""
    return Sql(template.format(*(p.text for p in parts)), tuple(chain.from_iterable(p.params for p in parts)))


def _join(operator: str, parts: Sequence[Sql]) -> Sql:
    """Join one or more conditions, as a balanced tree: SQLite limits an expression's depth to 1,000."""
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    return _sql(f"({{}} {operator} {{}})", _join(operator, parts[:half]), _join(operator, parts[half:]))


def _param(value: str | float) -> Sql:
    try:
        if isinstance(value, str):
            value.encode()
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            value = float(value)  # what SQLite's JSON makes of such an integer, too
    except (UnicodeEncodeError, OverflowError) as error:
        raise FilterError(f"Can't compare with {value!a}: {error}.") from error
    return Sql("?", (value,))


def _is_plain(value: Any) -> bool:
    """Whether equality with `value` is what SQL's IN does, for a value that JSON can hold."""
    if isinstance(value, str):
        return _parse_iso(value) is None
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


def _json(value: list[Any] | dict[str, Any]) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise FilterError(f"Can't compare with {value!r}, which JSON can't hold: {error}.") from error


def _get(condition: dict[str, Any], key: str) -> Any:
    if key not in condition:
        raise FilterError(f"'{key}' key missing in {condition}.")
    return condition[key]


@lru_cache(maxsize=4096)
def _parse_iso(text: str) -> datetime | None:
    """A string that starts with a full date YYYY-MM-DD, as a datetime; None for all others."""
    try:
        return datetime.fromisoformat(text) if _ISO_DATE.match(text) else None
    except ValueError:
        return None


def _date_order(stored: str, wanted: str) -> int | None:
    """-1, 0 or 1 as the first date is before, at or after the second; None if one is no date."""
    first, second = _parse_iso(stored), _parse_iso(wanted)
    if first is None or second is None:
        return None
    if (first.tzinfo is None) != (second.tzinfo is None):
        # As in Haystack, a date without time zone is taken to be in the other's.
        first, second = first.replace(tzinfo=None), second.replace(tzinfo=None)
    return (first > second) - (first < second)


def _json_equal(stored: str, wanted: str) -> bool:
    return bool(json.loads(stored) == json.loads(wanted))


def _pick(meta: str, keys: str) -> str | None:
    """The value under a list of nested keys, as JSON text of a list that holds only it; None if it is missing."""
    value = json.loads(meta)
    for key in json.loads(keys):
        if not isinstance(value, dict) or key not in value:
            return None
        value = value[key]
    return json.dumps([value])
