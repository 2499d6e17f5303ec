"""Definitions of Haystack 1: components in a list, and pipelines whose nodes name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from haystack.components.joiners import DocumentJoiner

from needle.components.passages import PassageSplitter, PassageWriter
from needle.data.errors import PipelineError
from needle.data.files import FileConverter
from needle.pipelines.compat import FARMReader, TransformersReader
from needle.pipelines.migrate_parts import (
    Notes,
    Stores,
    bm25_retriever,
    dense_retriever,
    fitting,
    mapping,
    name_left,
    part,
    rest,
    text,
)

_BM25 = {"BM25Retriever", "ElasticsearchRetriever", "TfidfRetriever"}
_DENSE = {"EmbeddingRetriever", "DensePassageRetriever"}
_READERS = {"FARMReader": FARMReader, "TransformersReader": TransformersReader}
_STORES = {
    "ElasticsearchDocumentStore",
    "FAISSDocumentStore",
    "InMemoryDocumentStore",
    "OpenDistroElasticsearchDocumentStore",
    "OpenSearchDocumentStore",
    "SQLDocumentStore",
}
#: These read what needle's converter does not: pictures of pages, and what only a service makes of a file.
_BEYOND = {"AzureConverter", "PDFToTextOCRConverter", "ParsrConverter", "TikaConverter"}
_CONVERTERS = {
    "CsvTextConverter",
    "DocxToTextConverter",
    "FileTypeClassifier",
    "JsonConverter",
    "MarkdownConverter",
    "PDFToTextConverter",
    "TextConverter",
    *_BEYOND,
}
#: What readers were if a definition did not say it.
_DEFAULT_MODEL = {"TransformersReader": "distilbert-base-uncased-distilled-squad"}


class _Node(NamedTuple):
    name: str
    kind: str
    parameters: dict[str, Any]


def migrate_haystack1(data: Mapping[str, Any]) -> list[tuple[str, dict[str, Any], list[str], list[str]]]:
    """Each pipeline: its name, definition, changes, and what is left.

    :raises PipelineError: if the definition is malformed.
    """
    nodes = {}
    for i, entry in enumerate(data["components"]):
        entry = mapping(entry, f"Component {i + 1}")
        name = text(entry.get("name"), f"The name of component {i + 1}")
        kind = text(entry.get("type"), f"The type of component '{name}'")
        nodes[name] = _Node(name, kind, mapping(entry.get("params"), f"The params of component '{name}'"))
    found, stores = [], Stores()
    for i, entry in enumerate(data["pipelines"]):
        entry = mapping(entry, f"Pipeline {i + 1}")
        name = text(entry.get("name"), f"The name of pipeline {i + 1}")
        steps = _steps(entry, name, nodes)
        notes = Notes()
        name_left(notes, f"pipeline '{name}'", {n: v for n, v in entry.items() if n not in ("name", "nodes", "type")})
        is_indexing = any("File" in inputs for inputs in steps.values())
        definition = (_indexing if is_indexing else _asking)(steps, nodes, stores, notes)
        found.append((name, definition, notes.changes, notes.left))
    used = {step for entry in data["pipelines"] for step in _steps(entry, "", nodes)}
    referred = {value for node in nodes.values() for value in node.parameters.values() if isinstance(value, str)}
    for _, _, _, left in found[:1]:
        left += [f"{n.name} ({n.kind}) is in no pipeline" for n in nodes.values() if n.name not in used | referred]
        left += [
            f"'{key}' of the file has no counterpart" for key in data if key not in ("components", "pipelines", "version")
        ]
    return found


def _steps(entry: Mapping[str, Any], name: str, nodes: Mapping[str, _Node]) -> dict[str, list[str]]:
    """A pipeline's nodes, each with the names of what comes before it."""
    listed = entry.get("nodes")
    if not isinstance(listed, list) or not listed:
        raise PipelineError(f"Pipeline '{name}' must have a list of nodes, not {listed!r:.80}.")
    steps = {}
    for node in listed:
        node = mapping(node, f"A node of pipeline '{name}'")
        step = text(node.get("name"), f"The name of a node of pipeline '{name}'")
        if step not in nodes:
            raise PipelineError(f"Pipeline '{name}' has a node '{step}', of which there is no component.")
        if not isinstance(inputs := node.get("inputs"), list):
            raise PipelineError(f"The inputs of node '{step}' must be a list, not {inputs!r:.80}.")
        steps[step] = [str(given).partition(".")[0] for given in inputs]
    return steps


def _asking(steps: dict[str, list[str]], nodes: Mapping[str, _Node], stores: Stores, notes: Notes) -> dict[str, Any]:
    parts: dict[str, dict[str, Any]] = {}
    for name in steps:
        node = nodes[name]
        old = dict(node.parameters)
        if node.kind in _BM25 | _DENSE:
            store_node = _store(old.pop("document_store", None), nodes, name, notes)
            store = stores.translated(store_node.name, store_node.kind, store_node.parameters, notes)
            if node.kind in _BM25:
                parts[name] = bm25_retriever(name, store, old, store_node.parameters, notes)
            else:
                parts[name] = _dense(node, store, old, store_node.parameters, notes)
            notes.changes.append(f"{name}: {node.kind} -> needle's {parts[name]['type'].rpartition('.')[2]}")
        elif node.kind in _READERS:
            if (model := _DEFAULT_MODEL.get(node.kind)) and not {"model_name_or_path", "model"} & old.keys():
                old["model_name_or_path"] = model
            parts[name] = fitting(_READERS[node.kind], name, old, notes)
            notes.changes.append(f"{name}: {node.kind} -> needle.pipelines.compat's, with the same scores")
        elif node.kind == "JoinDocuments":
            parts[name] = _joiner(name, old, notes)
        else:
            notes.left.append(f"{name}: no counterpart of {node.kind} ({old!r:.200}); it is left out, with its connections")
    connections = []
    for name, inputs in steps.items():
        for giver in inputs:
            if name in parts and giver in parts:
                connections.append({"sender": f"{giver}.documents", "receiver": f"{name}.documents"})
            elif name in parts and giver != "Query":
                notes.left.append(f"{name}: what it got from {giver} is to be connected anew")
    return {"components": parts, "connections": connections}


def _store(name: Any, nodes: Mapping[str, _Node], of: str, notes: Notes) -> _Node:
    node = nodes.get(name) if isinstance(name, str) else None
    if node is None:
        raise PipelineError(f"'{of}' needs a document_store that is one of the components, not {name!r:.80}.")
    if node.kind not in _STORES:
        notes.left.append(f"{name}: {node.kind} is not known; needle's store takes its place")
    return node


def _dense(node: _Node, store: Any, old: dict[str, Any], of_store: Mapping[str, Any], notes: Notes) -> Any:
    model = old.pop("embedding_model", None)
    if node.kind == "DensePassageRetriever":
        models = {n: old.pop(n) for n in ("query_embedding_model", "passage_embedding_model") if n in old}
        notes.left.append(
            f"{node.name}: DensePassageRetriever has a model each for questions and passages ({models or 'its defaults'}); "
            "needle embeds both with one of sentence-transformers: all-MiniLM-L6-v2, unless `model:` names another"
        )
    elif (kind := old.pop("model_format", None)) not in (None, "sentence_transformers"):
        notes.left.append(
            f"{node.name}: a model of the format {kind!r} ({model}) must be one that sentence-transformers opens"
        )
    return dense_retriever(node.name, store, model, old, of_store, notes)


def _joiner(name: str, old: dict[str, Any], notes: Notes) -> dict[str, Any]:
    names = {"top_k_join": "top_k"}
    notes.changes.append(f"{name}: JoinDocuments -> Haystack's DocumentJoiner")
    return fitting(DocumentJoiner, name, {names.get(n, n): value for n, value in old.items()}, notes)


def _indexing(steps: dict[str, list[str]], nodes: Mapping[str, _Node], stores: Stores, notes: Notes) -> dict[str, Any]:
    """Whatever the converters were: one converter, one splitter, one writer, as `needle index --pipeline` takes them."""
    splitter, writer = part(PassageSplitter, {}), None
    converters = [nodes[name] for name in steps if nodes[name].kind in _CONVERTERS]
    for node in converters:
        name_left(notes, node.name, {n: v for n, v in rest(node.parameters, ()).items() if v})
        if node.kind in _BEYOND:
            notes.left.append(f"{node.name}: needle's FileConverter reads text in files, not what {node.kind} makes of them")
    notes.changes.append(
        f"{', '.join(n.name for n in converters) or 'no converter'} -> one FileConverter for all file types"
    )
    for name in steps:
        node = nodes[name]
        if node.kind == "PreProcessor":
            splitter = _splitter(node, notes)
        elif node.kind in _STORES:
            store = stores.translated(node.name, node.kind, node.parameters, notes)
            writer = part(PassageWriter, {"document_store": store, "model": None})
        elif node.kind in _DENSE:
            notes.changes.append(f"{name}: passages are embedded by needle index --retriever dense, not by a node")
        elif node.kind in _BM25:
            notes.changes.append(f"{name}: an index needs no retriever")
        elif node.kind not in _CONVERTERS:
            notes.left.append(f"{name}: no counterpart of {node.kind} ({node.parameters!r:.200}); it is left out")
    if not any(nodes[name].kind == "PreProcessor" for name in steps):
        notes.changes.append("files are split into passages of 128 words, between sentences")
    if writer is None:
        notes.left.append("no document store is in this pipeline; passages go to a temporary one")
        writer = part(PassageWriter, {"document_store": stores.translated("", "no store", {}, notes), "model": None})
    links = [("converter.documents", "splitter.documents"), ("converter.files", "writer.files")]
    links.append(("splitter.documents", "writer.documents"))
    return {
        "components": {"converter": part(FileConverter, {}), "splitter": splitter, "writer": writer},
        "connections": [{"sender": sender, "receiver": receiver} for sender, receiver in links],
    }


def _splitter(node: _Node, notes: Notes) -> dict[str, Any]:
    old = dict(node.parameters)
    unit, length, overlap = old.pop("split_by", "word"), old.pop("split_length", 200), old.pop("split_overlap", 0)
    whole = old.pop("split_respect_sentence_boundary", True)
    name_left(notes, node.name, {n: v for n, v in rest(old, ("language",)).items() if v})
    name_left(notes, node.name, {n: v for n, v in old.items() if n == "language" and v != "en"})
    if unit != "word" or not isinstance(length, int) or not isinstance(overlap, int) or not 0 <= overlap < length:
        notes.left.append(
            f"{node.name}: passages are counted in words, not split by {unit!r} ({length!r}, overlap {overlap!r}); they "
            "have 128, of which 32 are shared"
        )
        return part(PassageSplitter, {})
    notes.changes.append(f"{node.name}: PreProcessor -> PassageSplitter")
    return part(PassageSplitter, {"split_by": "sentence" if whole else "word", "length": length, "overlap": overlap})
