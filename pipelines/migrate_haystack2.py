"""Definitions of Haystack 2: components by name, each with its class, and connections of their sockets."""

from __future__ import annotations

import copy
import importlib
import json
from collections.abc import Mapping
from typing import Any

from needle.components.extractive_reader import ExtractiveReader, TransformersExtractiveReader
from needle.data.errors import PipelineError
from needle.pipelines.migrate_parts import Notes, Stores, bm25_retriever, dense_retriever, fitting, mapping, text

_READERS = {"ExtractiveReader": ExtractiveReader, "TransformersExtractiveReader": TransformersExtractiveReader}
_STORES = {"InMemoryDocumentStore", "ElasticsearchDocumentStore", "OpenSearchDocumentStore"}
_BM25 = {"InMemoryBM25Retriever", "ElasticsearchBM25Retriever", "OpenSearchBM25Retriever"}
_DENSE = {"InMemoryEmbeddingRetriever", "ElasticsearchEmbeddingRetriever", "OpenSearchEmbeddingRetriever"}
_QUESTION_EMBEDDERS = {"SentenceTransformersTextEmbedder"}
_PASSAGE_EMBEDDERS = {"SentenceTransformersDocumentEmbedder"}
#: What left Haystack for a package of its own.
_MOVED = {
    "haystack.components.rankers.sentence_transformers_similarity.SentenceTransformersSimilarityRanker": (
        "haystack_integrations.components.rankers.sentence_transformers.sentence_transformers_similarity."
        "SentenceTransformersSimilarityRanker"
    ),
}
#: What the reader was if a definition did not say it.
_DEFAULT_MODEL = "deepset/roberta-base-squad2-distilled"
_KEPT = ("components", "connections", "metadata", "max_runs_per_component", "connection_type_validation")


def migrate_haystack2(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str], list[str]]:
    """The definition, changes, and what is left.

    :raises PipelineError: if the definition is malformed.
    """
    notes = Notes()
    definition = copy.deepcopy({name: value for name, value in data.items() if name in _KEPT})
    if "max_loops_allowed" in data:
        definition.setdefault("max_runs_per_component", data["max_loops_allowed"])
        notes.changes.append("max_loops_allowed is called max_runs_per_component")
    gone = [name for name in data if name not in _KEPT and name != "max_loops_allowed"]
    notes.left += [f"'{name}' of the file has no counterpart" for name in gone]
    components = mapping(definition["components"], "'components'")
    for name, one in components.items():
        one = mapping(one, f"Component '{name}'")
        text(one.get("type"), f"The type of component '{name}'")
        one["init_parameters"] = mapping(one.get("init_parameters"), f"The init_parameters of component '{name}'")
    definition["connections"] = _connections(definition.get("connections"))
    stores = Stores()
    # Dense retrievers first: their embedders go with them.
    for name in sorted(components, key=lambda name: components[name]["type"].rpartition(".")[2] not in _DENSE):
        if name in components:
            components[name] = _translated(name, components, definition, stores, notes)
            if components[name] is None:
                del components[name]
    return definition, notes.changes, notes.left


def _connections(given: Any) -> list[dict[str, str]]:
    if given is None:
        return []
    if not isinstance(given, list):
        raise PipelineError(f"'connections' must be a list, not {given!r:.80}.")
    ends = [mapping(one, "A connection") for one in given]
    return [{n: text(one.get(n), f"The {n} of a connection") for n in ("sender", "receiver")} for one in ends]


def _translated(
    name: str, components: dict[str, Any], definition: dict[str, Any], stores: Stores, notes: Notes
) -> dict[str, Any] | None:
    """A component's counterpart; None if it has none and is not needed."""
    one: dict[str, Any] = components[name]
    path, kind = one["type"], one["type"].rpartition(".")[2]
    parameters = dict(one["init_parameters"])
    if path in _MOVED:
        notes.changes.append(
            f"{name}: {kind} is in the package sentence-transformers-haystack (pip install needle-qa[rerank])"
        )
        return {"type": _MOVED[path], "init_parameters": parameters}
    if kind in _READERS:
        return _reader(name, kind, parameters, notes)
    if kind in _PASSAGE_EMBEDDERS:
        _bridge(definition, name, "documents", "documents")
        notes.changes.append(f"{name}: left out; needle embeds passages itself (needle index --retriever dense)")
        return None
    old_store = parameters.get("document_store")
    store = None
    if isinstance(old_store, dict) and str(old_store.get("type")).rpartition(".")[2] in _STORES:
        of_store = mapping(old_store.get("init_parameters"), f"The document store's init_parameters of '{name}'")
        parameters["document_store"] = store = _store(str(old_store["type"]), of_store, stores, notes)
        if kind in _BM25 | _DENSE:
            del parameters["document_store"]
            notes.changes.append(f"{name}: {kind} -> needle's {'BM25' if kind in _BM25 else 'Dense'}Retriever")
        if kind in _BM25:
            retriever: dict[str, Any] = bm25_retriever(name, store, parameters, of_store, notes)
            return retriever
        if kind in _DENSE:
            model = _model(name, components, definition, notes)
            dense: dict[str, Any] = dense_retriever(name, store, model, parameters, of_store, notes)
            return dense
    if not (_is_haystack3(path) or path.startswith("needle.")):
        notes.left.append(f"{name}: {path} is neither Haystack 3's nor needle's; it stays as it was")
    return {**one, "init_parameters": parameters}


def _reader(name: str, kind: str, parameters: dict[str, Any], notes: Notes) -> dict[str, Any]:
    if "model_name_or_path" in parameters:  # before 2.0
        parameters["model"] = parameters.pop("model_name_or_path")
    if parameters.get("model") is None:
        parameters["model"] = _DEFAULT_MODEL
    notes.changes.append(f"{name}: {kind} -> needle's, with the same scores but where the old one was wrong")
    kwargs = mapping(parameters.get("model_kwargs"), f"The model_kwargs of '{name}'")
    known = {n: v for n, v in kwargs.items() if n in ("torch_dtype", "dtype", "device_map")}
    if kwargs != known:
        notes.left.append(f"{name}: no counterpart of model_kwargs {', '.join(sorted(kwargs.keys() - known.keys()))}")
        parameters["model_kwargs"] = known
    return fitting(_READERS[kind], name, parameters, notes)


def _store(path: str, parameters: dict[str, Any], stores: Stores, notes: Notes) -> dict[str, Any]:
    """Stores that were one index stay one."""
    place = {n: v for n, v in parameters.items() if n in ("index", "hosts")}
    key = f"{path} {json.dumps(place, default=str, sort_keys=True)}"
    return stores.translated(key, path.rpartition(".")[2], parameters, notes)


def _model(name: str, components: dict[str, Any], definition: dict[str, Any], notes: Notes) -> str | None:
    """The model of the embedder in front of a dense retriever; the embedder goes, the question comes to the retriever."""
    givers = [c["sender"] for c in definition["connections"] if c["receiver"] == f"{name}.query_embedding"]
    if not givers:
        notes.left.append(f"{name}: no embedder is connected to it; name the passages' model in `model:`")
        return None
    embedder = givers[0].partition(".")[0]
    one = components.get(embedder)
    if one is None:
        raise PipelineError(f"'{givers[0]}' is connected with '{name}', but there is no component '{embedder}'.")
    kind = one["type"].rpartition(".")[2]
    model = one["init_parameters"].get("model", one["init_parameters"].get("model_name_or_path"))
    if kind not in _QUESTION_EMBEDDERS:
        notes.left.append(
            f"{embedder}: {kind} ({model!r}) is left out; needle embeds with models of sentence-transformers: "
            f"all-MiniLM-L6-v2, unless `model:` of '{name}' names another"
        )
        model = None
    for connection in definition["connections"]:
        if connection["receiver"] == f"{embedder}.text":
            connection["receiver"] = f"{name}.query"
    definition["connections"] = [c for c in definition["connections"] if c["sender"].partition(".")[0] != embedder]
    del components[embedder]
    notes.changes.append(f"{embedder}: left out; give the question to '{name}' as query, not to '{embedder}' as text")
    return None if model is None else str(model)


def _bridge(definition: dict[str, Any], name: str, given: str, taken: str) -> None:
    """Connect what came into a component that goes with what it went to."""
    into = [c["sender"] for c in definition["connections"] if c["receiver"] == f"{name}.{given}"]
    out = [c["receiver"] for c in definition["connections"] if c["sender"] == f"{name}.{taken}"]
    others = [c for c in definition["connections"] if name not in (c["sender"].split(".")[0], c["receiver"].split(".")[0])]
    bridges = [{"sender": sender, "receiver": receiver} for sender in into for receiver in out]
    definition["connections"] = others + bridges


def _is_haystack3(path: str) -> bool:
    module, _, kind = path.rpartition(".")
    if not module.startswith("haystack."):
        return False
    try:
        return hasattr(importlib.import_module(module), kind)
    except ImportError:
        return False
