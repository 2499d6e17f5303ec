"""BM25 in PostgreSQL, over its full-text index, and the indexes by which passages of a file are found.

PostgreSQL's own `ts_rank_cd` knows no rarity of words, and `plainto_tsquery` finds only passages that hold every word of the
question, which for a question in plain English is mostly none.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from haystack import Document

if TYPE_CHECKING:
    from haystack_integrations.document_stores.pgvector import PgvectorDocumentStore

logger = logging.getLogger(__name__)

#: Passages that are ranked by BM25, for each that is wanted and beyond: those whose words of the question are the rarest
#: together; of equals the shorter ones, as BM25 has it.
_CANDIDATES, _MORE = 5, 50
#: From so many passages on, the planner's estimate of their number is taken: counting them would read the whole table.
_ESTIMATED = 100_000

# The question's lexemes; how many passages there are; which hold a lexeme, by the index; what it is worth, Okapi's idf but
# never less than a little; the candidates; and BM25 from their tsvectors, the mean length taken over the candidates.
_SEARCH = """
WITH term AS (SELECT unnest(tsvector_to_array(to_tsvector({language}, %s))) AS lexeme),
size AS (
    SELECT CASE WHEN reltuples >= {estimated} THEN reltuples ELSE (SELECT count(*) FROM {table}) END::float8 AS n
    FROM pg_class WHERE oid = {name}::regclass),
found AS MATERIALIZED (
    SELECT lexeme, id FROM term CROSS JOIN LATERAL (
        SELECT id FROM {table} WHERE to_tsvector({language}, content) @@
            ('''' || replace(replace(lexeme, '\\', '\\\\'), '''', '''''') || '''')::tsquery) AS holder),
worth AS (
    SELECT lexeme, ln(greatest((n - count(*) + 0.5) / (count(*) + 0.5), 1.25)) AS idf
    FROM found CROSS JOIN size GROUP BY lexeme, n),
candidate AS (
    SELECT {table}.id, to_tsvector({language}, content) AS words FROM (
        SELECT id, sum(idf) AS all_idf FROM found JOIN worth USING (lexeme) GROUP BY id) AS sums
    JOIN {table} USING (id) {where} ORDER BY all_idf DESC, length(content), id LIMIT {candidates}),
counted AS (
    SELECT candidate.id, lexeme, cardinality(positions) AS tf, sum(cardinality(positions)) OVER (PARTITION BY id) AS length
    FROM candidate CROSS JOIN LATERAL unnest(words)),
mean AS (SELECT avg(length) AS length FROM (SELECT DISTINCT id, length FROM counted) AS passages),
best AS (
    SELECT id, sum(idf * tf * 2.5 / (tf + 1.5 * (0.25 + 0.75 * counted.length / mean.length)))::float8 AS score
    FROM counted JOIN worth USING (lexeme) CROSS JOIN mean GROUP BY id ORDER BY score DESC, id LIMIT {top_k})
SELECT {table}.*, score FROM best JOIN {table} USING (id) ORDER BY score DESC, id
"""


def search(store: PgvectorDocumentStore, query: str, filters: dict[str, Any] | None, top_k: int) -> list[Document]:
    """The passages that match a question best, with k1 = 1.5 and b = 0.75 as needle's own BM25 has, of those that match the
    filters.

    It looks at every passage that holds a word of the question.
    """
    from haystack_integrations.document_stores.pgvector.converters import _from_pg_to_haystack_documents
    from haystack_integrations.document_stores.pgvector.filters import _convert_filters_to_where_clause_and_params
    from psycopg.sql import SQL, Identifier, Literal

    where, values = _convert_filters_to_where_clause_and_params(filters) if filters else (SQL(""), ())
    table = Identifier(store.schema_name, store.table_name)
    statement = SQL(_SEARCH).format(
        language=Literal(store.language),
        table=table,
        name=Literal(table.as_string()),
        estimated=Literal(_ESTIMATED),
        where=where,
        candidates=Literal(_CANDIDATES * top_k + _MORE),
        top_k=Literal(top_k),
    )
    store._ensure_db_setup()
    assert store._dict_cursor is not None
    return _from_pg_to_haystack_documents(store._dict_cursor.execute(statement, (query, *values)).fetchall())


def add_indexes(store: PgvectorDocumentStore, fields: Sequence[str]) -> None:
    """Index meta fields by which `ExternalStore` looks for passages; without that PostgreSQL reads the whole table."""
    from psycopg.errors import InsufficientPrivilege
    from psycopg.sql import SQL, Identifier, Literal

    store._ensure_db_setup()
    assert store._cursor is not None
    for field in fields:
        statement = SQL("CREATE INDEX IF NOT EXISTS {name} ON {table} ((meta ->> {field}))").format(
            name=Identifier(f"{store.table_name}_{field}"),
            table=Identifier(store.schema_name, store.table_name),
            field=Literal(field),
        )
        try:
            store._cursor.execute(statement)
        except InsufficientPrivilege as error:
            logger.warning(
                "The table '%s' gets no index on %s, which makes changes slow: %s", store.table_name, field, error
            )
