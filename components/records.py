"""Documents and their tokens as values of the store's columns, and back."""

from __future__ import annotations

import json
import zlib
from typing import Any

import numpy as np
from haystack.dataclasses import ByteStream, Document, SparseEmbedding
from numpy.typing import NDArray

from needle.components.tokenizer import Tokens

#: The columns of `documents`, in the order of a record.
COLUMNS = "id, meta, content, score, sparse_embedding, embedding, blob_mime_type, blob_meta, blob"


def document_record(document: Document) -> tuple[Any, ...]:
    """The values of COLUMNS; embeddings are stored as little-endian float64, so they come back exactly.

    :raises ValueError: if this is not a Document, or it holds what can't be stored.
    """
    if not isinstance(document, Document):
        raise ValueError(f"Expected a list of Documents, but it holds {document!r}.")
    embedding, sparse, blob = document.embedding, document.sparse_embedding, document.blob
    try:
        (document.id + (document.content or "")).encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"Document {document.id!a} can't be stored: its text is not valid Unicode ({error}). "
            "Decode its source with errors='replace'."
        ) from error
    return (
        document.id,
        meta_json(document.id, document.meta),
        document.content,
        None if document.score is None else float(document.score),
        None if sparse is None else json.dumps(sparse.to_dict()),
        None if embedding is None else np.asarray(embedding, "<f8").tobytes(),
        None if blob is None else blob.mime_type,
        None if blob is None else meta_json(document.id, blob.meta),
        None if blob is None else blob.data,
    )


def record_document(record: tuple[Any, ...]) -> Document:
    """The Document that `document_record` made this of."""
    id_, meta, content, score, sparse, embedding, mime_type, blob_meta, blob = record
    return Document(
        id=id_,
        content=content,
        blob=None if blob is None else ByteStream(blob, json.loads(blob_meta), mime_type),
        meta=json.loads(meta),
        score=score,
        embedding=None if embedding is None else np.frombuffer(embedding, "<f8").tolist(),
        sparse_embedding=None if sparse is None else SparseEmbedding.from_dict(json.loads(sparse)),
    )


def meta_json(document_id: str, meta: dict[str, Any]) -> str:
    """
    :raises ValueError: naming document and key, if JSON can't hold a value.
    """
    if (error := _json_error(meta)) is None:
        return _to_json(meta)
    key = next(key for key, value in meta.items() if _json_error({key: value}))
    raise ValueError(
        f"Document {document_id!a} can't be stored: JSON can't hold its meta key {key!a} with the value "
        f"{meta[key]!a:.100} ({error}). Use strings, numbers, booleans, None, and lists and dictionaries of them."
    )


def content_crc(document: Document) -> int:
    """What tells whether stored tokens are those of this content."""
    return zlib.crc32((document.content or "").encode())


def token_record(passage: Document, tokens: Tokens) -> tuple[str, int, int, bytes, bytes]:
    """id, content_crc, count, ids, offsets: a passage's tokens as the columns of `tokens`."""
    return passage.id, content_crc(passage), len(tokens.ids), _pack(tokens.ids), _pack(tokens.offsets)


def record_tokens(count: int, ids: bytes, offsets: bytes) -> Tokens:
    """The Tokens that `token_record` made these of."""
    return Tokens(_unpack(ids, count), _unpack(offsets, 2 * count).reshape(-1, 2))


def _json_error(value: Any) -> Exception | None:
    try:
        _to_json(value)
    except (TypeError, ValueError, RecursionError) as error:
        return error
    return None


def _to_json(value: Any) -> str:
    if not _has_string_keys(value):
        raise TypeError("its keys must be strings")
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text.encode()  # a lone surrogate fails here, where its key can be named
    return text


def _has_string_keys(value: Any) -> bool:
    # json.dumps would turn other keys into strings without a word.
    if isinstance(value, dict):
        return all(isinstance(k, str) and _has_string_keys(v) for k, v in value.items())
    return not isinstance(value, list | tuple) or all(map(_has_string_keys, value))


def _pack(values: NDArray[np.int32]) -> bytes:
    """Little-endian unsigned integers of 2 bytes each, or of 4 where one needs them."""
    return values.astype("<u2" if values.max(initial=0) < 2**16 else "<u4").tobytes()


def _unpack(packed: bytes, count: int) -> NDArray[np.int32]:
    """(count,) int32; the length tells how wide they were packed."""
    return np.frombuffer(packed, f"<u{len(packed) // count}" if count else "<u2").astype(np.int32)
