"""Pipeline definitions (Haystack YAML) -> pipelines on a given store, and how these are run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from haystack import Pipeline
from haystack.core.errors import DeserializationError, PipelineError, PipelineRuntimeError
from haystack.core.serialization import import_class_by_name
from haystack.errors import FilterError
from haystack.marshal import YamlMarshaller

from needle.components.external_store import ExternalStore
from needle.data import errors
from needle.pipelines.store_urls import document_store, is_url, moved

#: The definitions that come with needle.
DEFINITIONS = Path(__file__).parent / "definitions"

#: What a definition may name besides Haystack's own modules.
ALLOWED_MODULES = ["needle.*"]

_STORE = "needle.components.store.SQLiteDocumentStore"
_WITH_MODEL = ("needle.components.reader.MiniLMReader", "needle.components.passages.PassageWriter")
_OWN_DENSE = "needle.components.retrievers.DenseRetriever"
_WITH_EMBEDDER = (_OWN_DENSE, "needle.components.external_retrievers.ExternalDenseRetriever")
_SHARDED = (_OWN_DENSE, "needle.components.retrievers.BM25Retriever")


def load_pipeline(
    definition: str | Path,
    store: str | Path | dict[str, Any] | None = None,
    model: str | None = None,
    embedder: str | None = None,
    shards: int | None = None,
) -> Pipeline:
    """Load a definition; modules other than Haystack's, its integrations' and needle's are refused.

    :param definition: a YAML file, or the name of one that comes with needle, such as "bm25_qa".
    :param store: the folder that all its SQLite document stores get; a URL (see `store_urls`) or a document store's own
        definition puts that in their place; None leaves what the definition says.
    :param model: the reader that its readers and writers get; None leaves what the definition says. embedder: the
        embedding model that its dense retrievers get, likewise. shards: in how many parts the indexes of its retrievers are
        kept, likewise.
    :raises PipelineError: if there is no such file, it is no pipeline, or it names a module that is not allowed.
    """
    file = DEFINITIONS / f"{definition}.yaml" if (DEFINITIONS / f"{definition}.yaml").is_file() else Path(definition)
    try:
        data = YamlMarshaller().unmarshal(file.read_text(encoding="utf-8"))
    except OSError as error:
        names = ", ".join(sorted(f.stem for f in DEFINITIONS.glob("*.yaml")))
        raise errors.PipelineError(
            f"The pipeline definition '{definition}' can't be read: {error.strerror}. needle's own are: {names}."
        ) from error
    except Exception as error:  # PyYAML's errors, and what the marshaller makes of bad Unicode
        raise errors.PipelineError(f"'{file}' is not valid YAML: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("components"), dict):
        raise errors.PipelineError(f"'{file}' is no pipeline definition: it has no mapping named 'components'.")
    if embedder is not None and not any(part["type"] in _WITH_EMBEDDER for part in _parts(data)):
        raise errors.PipelineError(
            f"'{file.stem}' embeds nothing, so that it can't use the embedding model '{embedder}'. Ask for dense or hybrid "
            "retrieval (--retriever hybrid), or by a pipeline with a DenseRetriever."
        )
    if is_url(store):
        store = document_store(store)
    if shards is not None and isinstance(store, dict):
        raise errors.PipelineError("Only indexes of a store in a folder are kept in shards; other stores divide their own.")
    try:
        for part in list(_parts(data)):
            if isinstance(store, str | Path) and part["type"] == _STORE:
                part["init_parameters"]["path"] = str(store)
            if model is not None and part["type"] in _WITH_MODEL:
                part["init_parameters"]["model"] = model
            if embedder is not None and part["type"] in _WITH_EMBEDDER:
                part["init_parameters"]["model"] = embedder
            if shards is not None and part["type"] in _SHARDED:
                part["init_parameters"]["shards"] = shards
            if isinstance(store, dict):
                moved(part, store)
        return Pipeline.from_dict(data, allowed_modules=ALLOWED_MODULES)
    except (
        DeserializationError,
        PipelineError,
        AttributeError,
        ImportError,
        KeyError,
        TypeError,
        ValueError,
        RecursionError,
    ) as error:
        # Haystack goes on to advise what only its own API offers.
        reason, _, advice = str(error).partition(" If you trust")
        remedy = " If you trust the file, set HAYSTACK_DESERIALIZATION_ALLOWLIST='that.module'." if advice else ""
        raise errors.PipelineError(f"The pipeline of '{file}' can't be made: {reason}{remedy}") from error


def open_store(url: str) -> ExternalStore:
    """The store that a URL names; nothing is touched yet.

    :raises NeedleError: if the URL makes no sense, or its client is not installed.
    """
    data = document_store(url)
    name = data["type"].split(".")[2]
    try:
        kind: Any = import_class_by_name(data["type"])
    except ImportError as error:
        raise errors.NeedleError(
            f"A store at {name} needs its client: pip install 'needle-qa[{name}]' ({error})."
        ) from error
    return ExternalStore.of(kind.from_dict(data))


def run_pipeline(pipeline: Pipeline, data: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Run it; what its components raise on purpose comes out as it is, not as what Haystack wraps it in."""
    try:
        return pipeline.run(data, **options)
    except (PipelineRuntimeError, ValueError, OSError) as error:  # OSError: a model that can't be had
        if isinstance(error.__cause__, errors.NeedleError | FilterError):
            raise error.__cause__ from None
        raise errors.PipelineError(f"The pipeline could not be run. {error}") from error


def takers(pipeline: Pipeline, socket: str) -> list[str]:
    """The components that need this input from outside."""
    return [name for name, sockets in pipeline.inputs().items() if socket in sockets]


def _parts(data: Any) -> Iterator[dict[str, Any]]:
    """All mappings, at any depth, that have a type and parameters."""
    if isinstance(data, dict):
        if isinstance(data.get("type"), str) and isinstance(data.setdefault("init_parameters", {}), dict):
            yield data
        for value in data.values():
            yield from _parts(value)
    elif isinstance(data, list):
        for value in data:
            yield from _parts(value)
