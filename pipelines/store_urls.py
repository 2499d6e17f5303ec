"""`--store URL`: the document store that a URL names, and needle's definitions moved onto it.

    postgresql://user:password@host:5432/database     PostgreSQL with pgvector
    qdrant://host:6333, qdrant:///folder              Qdrant; its local form in a folder
    opensearch://host:9200, elasticsearch://host:9200 over TLS, or without: opensearch+http://host:9200

Behind it: `?table=NAME`, the table, collection or index (needle_passages), and `&dimension=N`, the length of vectors (384).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from itertools import chain, count
from typing import Any, TypeGuard
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from needle.data.errors import NeedleError

_STORES = "haystack_integrations.document_stores"
_RETRIEVERS = "needle.components.external_retrievers"

#: What the parts of a definition become, and which of their parameters they keep.
_MOVED: dict[str, tuple[str, tuple[str, ...]]] = {
    "needle.components.retrievers.BM25Retriever": (f"{_RETRIEVERS}.ExternalBM25Retriever", ("top_k", "filters")),
    "needle.components.retrievers.DenseRetriever": (
        f"{_RETRIEVERS}.ExternalDenseRetriever",
        ("model", "top_k", "filters", "device"),
    ),
    "needle.components.passages.PassageWriter": (f"{_RETRIEVERS}.ExternalWriter", ()),
}
_READER = "needle.components.reader.MiniLMReader"


def is_url(store: object) -> TypeGuard[str]:
    return isinstance(store, str) and "://" in store


def without_password(store: object) -> str:
    """A store's name as it may be told."""
    return re.sub(r"password=[^&]*", "password=...", re.sub(r"(?<=://)[^?]*@", "", str(store)))


def document_store(url: str) -> dict[str, Any]:
    """The store that a URL names, as it stands in a definition; what is secret in it becomes an environment variable of this
    process.

    :raises NeedleError: if there is no such kind of store, or the URL makes no sense.
    """
    scheme = url.partition("://")[0]
    kind, _, plainly = scheme.partition("+")
    if kind not in _KINDS or plainly not in (("", "http") if kind in _VARIABLES else ("",)):
        raise NeedleError(f"A store's URL begins with {', '.join(f'{k}://' for k in _KINDS)}, not with {scheme}://.")
    try:
        parts = urlsplit(url)
        port = parts.port if kind in _VARIABLES else None  # PostgreSQL takes several hosts
        if parts.netloc.count("@") > 1 or ("@" in parts.path and "@" not in parts.netloc):
            raise ValueError
    except ValueError:  # whoever takes a part of the password for the port or the host would quote it
        raise NeedleError(
            "The store's URL makes no sense: its port is no number, or a character of its password must be written as %XX."
        ) from None
    options = dict(parse_qsl(parts.query))
    table, dimension = options.pop("table", "needle_passages"), options.pop("dimension", "384")
    if not re.fullmatch(r"[a-z0-9_-]{1,48}", table):
        raise NeedleError(f"A table's name in a store's URL is 1 to 48 of a-z, 0-9, _ and -, not {table!r}.")
    if not dimension.isdecimal() or not int(dimension):
        raise NeedleError(f"The dimension in a store's URL is the length of its vectors, not {dimension!r}.")
    if kind in _VARIABLES:
        if parts.username or parts.password:
            raise NeedleError(f"Give the credentials of {kind} in the environment, not in the URL: {_VARIABLES[kind]}.")
        if options:
            raise NeedleError(f"A URL of {kind} may hold ?table= and ?dimension=, not {', '.join(options)}.")
        if not parts.hostname and not (kind == "qdrant" and parts.path.strip("/")):
            raise NeedleError(f"The URL names no host: {kind}://HOST{f':{port}' if port else ''}.")
    name, parameters = _KINDS[kind](parts, table, int(dimension))
    return {"type": f"{_STORES}.{name}", "init_parameters": parameters}


def moved(part: dict[str, Any], store: dict[str, Any]) -> None:
    """Change a part of a definition that uses needle's own store into the one that does the same on another."""
    if part["type"] in _MOVED:
        kind, kept = _MOVED[part["type"]]
        parameters = {name: part["init_parameters"][name] for name in kept if name in part["init_parameters"]}
        part.update(type=kind, init_parameters={"document_store": store, **parameters})
    elif part["type"].startswith(f"{_RETRIEVERS}."):
        part["init_parameters"]["document_store"] = store
    elif part["type"] == _READER:
        part["init_parameters"]["document_store"] = None  # its tokens are kept by needle's own store alone


def _postgresql(url: SplitResult, table: str, dimension: int) -> tuple[str, dict[str, Any]]:
    own = ("table=", "dimension=")
    options = "&".join(option for option in url.query.split("&") if not option.startswith(own))
    connection = f"postgresql://{url.netloc}{url.path}{'?' if options else ''}{options}"
    return "pgvector.document_store.PgvectorDocumentStore", {
        "connection_string": _secret(connection),
        "table_name": table,
        "embedding_dimension": dimension,
        "keyword_index_name": f"{table}_words",
        "hnsw_index_name": f"{table}_vectors",
    }


def _qdrant(url: SplitResult, table: str, dimension: int) -> tuple[str, dict[str, Any]]:
    from needle.components.external_store import LOOKED_FOR  # it imports Haystack, which takes long

    place: dict[str, Any] = {"path": unquote(url.path), "force_disable_check_same_thread": True}
    if url.hostname:
        place = {
            "url": _http(url, 6333),
            "api_key": {"type": "env_var", "env_vars": ["QDRANT_API_KEY"], "strict": False},
            "payload_fields_to_index": [{"field_name": f"meta.{name}", "field_schema": "keyword"} for name in LOOKED_FOR],
            "scroll_size": 1000,
            "timeout": 60,
        }
    return "qdrant.document_store.QdrantDocumentStore", {
        **place,
        "index": table,
        "embedding_dim": dimension,
        "use_sparse_embeddings": True,
        "sparse_idf": True,
        "progress_bar": False,
    }


def _opensearch(url: SplitResult, table: str, dimension: int) -> tuple[str, dict[str, Any]]:
    vectors = {
        "type": "knn_vector",
        "dimension": dimension,
        "method": {"name": "hnsw", "engine": "lucene", "space_type": "cosinesimil"},
    }
    return "opensearch.document_store.OpenSearchDocumentStore", {
        "hosts": [_http(url, 9200)],
        "index": table,
        "embedding_dim": dimension,
        "mappings": _mappings(vectors),
        "settings": {"index.knn": True, "index.query.default_field": "content"},
    }


def _elasticsearch(url: SplitResult, table: str, dimension: int) -> tuple[str, dict[str, Any]]:
    vectors = {"type": "dense_vector", "dims": dimension, "index": True, "similarity": "cosine"}
    return "elasticsearch.document_store.ElasticsearchDocumentStore", {
        "hosts": [_http(url, 9200)],
        "index": table,
        "custom_mapping": _mappings(vectors),
    }


def _mappings(vectors: dict[str, Any]) -> dict[str, Any]:
    """English text is stemmed, as by needle's own BM25; whatever else is text is kept whole, as filters need it, also where
    it looks like a date, and if it is too long for an index, only stored."""
    keywords = {"strings": {"match_mapping_type": "string", "mapping": {"type": "keyword", "ignore_above": 8191}}}
    text = {"type": "text", "analyzer": "english"}
    return {
        "properties": {"embedding": vectors, "content": text},
        "dynamic_templates": [keywords],
        "date_detection": False,
    }


def _http(url: SplitResult, port: int) -> str:
    scheme = "http" if url.scheme.endswith("+http") else "https"
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    return f"{scheme}://{host}:{url.port or port}{url.path.rstrip('/')}"


def _secret(value: str) -> dict[str, Any]:
    """Haystack writes no secret into a definition, but the name of a variable that holds it: its own, or the first with a
    number behind that holds no other."""
    names = chain(["PG_CONN_STR"], (f"PG_CONN_STR_{n}" for n in count(2)))
    name = next(name for name in names if os.environ.setdefault(name, value) == value)
    return {"type": "env_var", "env_vars": [name], "strict": True}


_KINDS: dict[str, Callable[[SplitResult, str, int], tuple[str, dict[str, Any]]]] = {
    "postgresql": _postgresql,
    "postgres": _postgresql,
    "qdrant": _qdrant,
    "opensearch": _opensearch,
    "elasticsearch": _elasticsearch,
}
#: Where credentials are taken from instead.
_VARIABLES = {
    "qdrant": "QDRANT_API_KEY",
    "opensearch": "OPENSEARCH_USERNAME and OPENSEARCH_PASSWORD",
    "elasticsearch": "ELASTIC_API_KEY",
}
