"""The bodies of requests, as OpenAPI publishes them. Offsets are in characters (code points), half-open."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date, datetime
from typing import Annotated, Any, Literal

from haystack import Document
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, WithJsonSchema

from needle.pipelines.server.limits import Limits

LIMITS = Limits()

#: Text that is not blank; Python counts \x1c to \x1f as white space, other languages do not.
_NOT_BLANK = r"[^\s\x00-\x1f\x85\ufeff]"
#: An id that can stand in a URL.
ID = r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$"
#: What needle itself keeps in a passage's meta.
OWN_META = ("file_path", "title", "source_id", "start_char", "end_char", "page_number")
_MOST_CONDITIONS, _MOST_DEPTH = 100, 8


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _is_date(text: str) -> str:
    """:raises ValueError:"""
    if not re.match(r"\d{4}-\d\d-\d\d($|[Tt ])", text):
        raise ValueError("must be an ISO date, YYYY-MM-DD...")
    datetime.fromisoformat(text) if len(text) > 10 else date.fromisoformat(text)
    return text


#: JSON knows no difference between 3 and 3.0.
_whole = BeforeValidator(lambda given: int(given) if isinstance(given, float) and given % 1 == 0 else given)
Char = Annotated[int, Field(ge=0, lt=2**31), _whole]
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Text = Annotated[str, Field(max_length=1000)]
Scalar = Text | bool | Whole | FiniteFloat | None
IsoDate = Annotated[
    str,
    AfterValidator(_is_date),
    WithJsonSchema({"anyOf": [{"type": "string", "format": "date"}, {"type": "string", "format": "date-time"}]}),
]
Question = Annotated[str, Field(min_length=1, max_length=LIMITS.question_chars, pattern=_NOT_BLANK)]
TopK = Annotated[int, Field(ge=1, le=LIMITS.top_k, description="Most results; null for what the pipeline says."), _whole]
Deadline = Annotated[
    FiniteFloat, Field(ge=1, le=3600, description="Seconds to wait for the answers; at most the server's own deadline.")
]
MetaField = Annotated[
    str,
    Field(pattern=r"^(id|content|meta(\.[A-Za-z0-9_-]{1,64}){1,8})$", description="id, content, or meta.NAME"),
]


class Equal(_In):
    field: MetaField
    operator: Literal["==", "!="]
    value: Scalar


class Among(_In):
    field: MetaField
    operator: Literal["in", "not in"]
    value: Annotated[list[Text | bool | Whole | FiniteFloat], Field(max_length=1000)]


class Ordered(_In):
    field: MetaField
    operator: Literal[">", ">=", "<", "<="]
    value: Whole | FiniteFloat | IsoDate


class Logic(_In):
    operator: Literal["AND", "OR", "NOT"]
    conditions: Annotated[list[Filter], Field(max_length=50)]


Filter = Equal | Among | Ordered | Logic


def _bounded(filters: Any) -> Any:
    """Refuse what is too deep or too large before it is walked through by functions that call themselves."""
    level, conditions = [filters], 0
    for _ in range(_MOST_DEPTH):
        level = [c for one in level if isinstance(one, dict) for c in _conditions(one)]
        conditions += len(level)
    if level or conditions > _MOST_CONDITIONS:
        raise ValueError(f"filters may have {_MOST_CONDITIONS} conditions, nested {_MOST_DEPTH - 1} deep")
    return filters


def _conditions(one: dict[str, Any]) -> Iterator[Any]:
    conditions = one.get("conditions")
    return iter(conditions if isinstance(conditions, list) else ())


Filters = Annotated[Filter, BeforeValidator(_bounded), Field(description="Haystack filters on the passages.")]


class _Options(_In):
    top_k: TopK | None = None
    filters: Filters | None = None

    @property
    def filters_dict(self) -> dict[str, Any] | None:
        return None if self.filters is None else self.filters.model_dump()


class Ask(_Options):
    query: Question
    deadline_s: Deadline | None = None


class AskMany(_Options):
    queries: Annotated[list[Question], Field(min_length=1, max_length=LIMITS.batch_questions)]
    deadline_s: Deadline | None = None


class Search(_Options):
    query: Question


class NewDocument(_In):
    id: Annotated[str, Field(pattern=ID, description="The same id again replaces the document.")] | None = None
    content: Annotated[str, Field(min_length=1, max_length=LIMITS.document_chars, pattern=_NOT_BLANK)]
    title: Annotated[str, Field(max_length=300)] | None = None
    meta: Annotated[
        dict[str, Scalar | Annotated[list[Text], Field(max_length=100)]],
        Field(max_length=50),
        AfterValidator(lambda meta: _free(meta)),
        Field(json_schema_extra={"propertyNames": {"pattern": "^[A-Za-z0-9_-]{1,64}$", "not": {"enum": list(OWN_META)}}}),
    ] = Field(default_factory=dict)

    def document(self) -> Document:
        meta = self.meta | ({} if self.title is None else {"title": self.title})
        return Document(content=self.content, meta=meta) if self.id is None else Document(self.id, self.content, meta=meta)


def _free(meta: dict[str, Any]) -> dict[str, Any]:
    for name in meta:
        if name in OWN_META or not re.fullmatch("[A-Za-z0-9_-]{1,64}", name):
            raise ValueError(f"names are 1 to 64 of A-Z a-z 0-9 _ -, and none of {', '.join(OWN_META)}")
    return meta


class NewDocuments(_In):
    documents: Annotated[list[NewDocument], Field(min_length=1, max_length=LIMITS.documents)]


class Feedback(_In):
    query: Question
    verdict: Literal["right", "wrong", "wrong span", "no answer"]
    score: Annotated[FiniteFloat, Field(ge=0, le=1, description="What was said with it.")]
    passage_id: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    start_char: Annotated[Char | None, Field(description="Of the answer in the passage; null: of 'no answer'.")] = None
    end_char: Char | None = None
    correction: Annotated[str, Field(min_length=1, max_length=1000, pattern=_NOT_BLANK)] | None = None
