"""What the migrations from Haystack 1 and 2 share: parts, their parameters, and notes of what became of them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from haystack.core.serialization import generate_qualified_class_name

from needle.components.retrievers import BM25Retriever, DenseRetriever
from needle.components.store import SQLiteDocumentStore
from needle.data.errors import PipelineError

#: Where the first store of a pipeline goes; others get a number.
STORE_FOLDER = "needle-store"

#: Of stores: where their server is, and how they keep what needle keeps its own way.
_SERVER = {
    "api_key",
    "api_key_id",
    "aws4auth",
    "ca_certs",
    "content_field",
    "create_index",
    "custom_mapping",
    "duplicate_documents",
    "embedding_dim",
    "embedding_field",
    "faiss_index_factory_str",
    "faiss_index_path",
    "host",
    "hosts",
    "http_auth",
    "index",
    "index_type",
    "knn_engine",
    "label_index",
    "mappings",
    "name_field",
    "password",
    "port",
    "progress_bar",
    "recreate_index",
    "refresh_type",
    "return_embedding",
    "scheme",
    "scroll",
    "settings",
    "shared",
    "sql_url",
    "synonym_type",
    "synonyms",
    "timeout",
    "url",
    "use_bm25",
    "use_gpu",
    "use_ssl",
    "use_system_proxy",
    "username",
    "verify_certs",
}
_SIMILARITY = {"dot_product": "dot", "cosine": "cosine"}
_VARIANTS = {"BM25Okapi": "okapi", "BM25L": "l", "BM25Plus": "plus"}


@dataclass
class Notes:
    """changes: what is different now. left: what could not be translated."""

    changes: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


@dataclass
class Stores:
    """The stores of a file, each with a folder: equal ones share it."""

    folders: dict[str, str] = field(default_factory=dict)

    def translated(self, key: str, kind: str, parameters: Mapping[str, Any], notes: Notes) -> dict[str, Any]:
        """
        :param key: what tells one store from another. kind: its class.
        """
        n = len(self.folders) + 1
        folder = self.folders.setdefault(key, STORE_FOLDER if n == 1 else f"{STORE_FOLDER}-{n}")
        change = (
            f"{kind} -> SQLiteDocumentStore in the folder '{folder}'; its documents don't come along: index them with "
            "needle index"
        )
        if change not in notes.changes:
            notes.changes.append(change)
            if gone := sorted(parameters.keys() & _SERVER):
                notes.changes.append(f"{kind}: not needed any more: {', '.join(gone)}")
            used = {"similarity", "embedding_similarity_function", "bm25_algorithm", "bm25_parameters"}
            name_left(notes, kind, {n: v for n, v in parameters.items() if n not in _SERVER | used and v is not None})
        return part(SQLiteDocumentStore, {"path": folder})


def part(kind: type, parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": generate_qualified_class_name(kind), "init_parameters": dict(parameters)}


def fitting(kind: type, name: str, parameters: Mapping[str, Any], notes: Notes) -> dict[str, Any]:
    """A part of this kind with those parameters that it takes; the others are named in the notes."""
    known = inspect.signature(kind.__init__).parameters  # type: ignore[misc]
    name_left(notes, name, {n: value for n, value in parameters.items() if n not in known})
    return part(kind, {n: value for n, value in parameters.items() if n in known})


def name_left(notes: Notes, name: str, parameters: Mapping[str, Any]) -> None:
    if parameters:
        told = ", ".join(f"{n}: {value!r:.80}" for n, value in parameters.items())
        notes.left.append(f"{name}: no counterpart of {told}")


def bm25_retriever(
    name: str, store: dict[str, Any], old: Mapping[str, Any], of_store: Mapping[str, Any], notes: Notes
) -> dict[str, Any]:
    """
    :param old: the retriever's parameters but for the store. of_store: the old store's, which held those of BM25.
    """
    parameters = {"document_store": store, **{n: v for n, v in old.items() if n in ("top_k", "filters") and v is not None}}
    if (algorithm := of_store.get("bm25_algorithm")) is not None:
        if algorithm in _VARIANTS:
            parameters["variant"] = _VARIANTS[algorithm]
        else:
            name_left(notes, name, {"bm25_algorithm": algorithm})
    bm25 = of_store.get("bm25_parameters") or {}
    parameters |= {n: bm25[n] for n in ("k1", "b", "epsilon", "delta") if n in bm25}
    name_left(notes, name, {n: v for n, v in bm25.items() if n not in parameters})
    name_left(notes, name, rest(old, ("top_k", "filters")))
    return part(BM25Retriever, parameters)


def dense_retriever(
    name: str, store: dict[str, Any], model: str | None, old: Mapping[str, Any], of_store: Mapping[str, Any], notes: Notes
) -> dict[str, Any]:
    parameters: dict[str, Any] = {"document_store": store, "model": model}
    parameters |= {n: v for n, v in old.items() if n in ("top_k", "filters") and v is not None}
    similarity = of_store.get("similarity", of_store.get("embedding_similarity_function"))
    if similarity in _SIMILARITY:
        parameters["similarity"] = _SIMILARITY[similarity]
    elif similarity is not None:
        name_left(notes, name, {"similarity": similarity})
    name_left(notes, name, rest(old, ("top_k", "filters")))
    notes.changes.append(f"{name}: passages are embedded by it, not when they are written: needle index --retriever dense")
    return part(DenseRetriever, parameters)


#: Parameters that say what is so here anyway, with the values for which that holds.
_AS_HERE = {"return_embedding": (True, False), "filter_policy": ("replace",), "scale_score": (False,)}
_SPEED = {"batch_size", "devices", "num_processes", "progress_bar", "use_auth_token", "use_fast_tokenizers", "use_gpu"}


def rest(parameters: Mapping[str, Any], used: Iterable[str]) -> dict[str, Any]:
    """Those parameters that were not used and that change what comes out."""
    return {
        name: value
        for name, value in parameters.items()
        if name not in used and name not in _SPEED and value is not None and value not in _AS_HERE.get(name, ())
    }


def mapping(value: Any, what: str) -> dict[str, Any]:
    """:raises PipelineError: if it is none; None counts as empty."""
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise PipelineError(f"{what} must be a mapping of names, not {value!r:.80}.")
    return value


def text(value: Any, what: str) -> str:
    """:raises PipelineError: if it is none."""
    if not isinstance(value, str) or not value:
        raise PipelineError(f"{what} must be a text, not {value!r:.80}.")
    return value
