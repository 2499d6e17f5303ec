"""Where an answer that an older reader found stands, as needle's own reader tells it in `meta["places"]`."""

from __future__ import annotations

from typing import Any

from haystack import Document

from needle.components.answers import Candidate


def places(document: Document, start: int, end: int) -> list[dict[str, Any]]:
    """
    :param start, end: half-open offsets in the document; those in the result are in the Document that it is a part of.
    """
    found = Candidate(document, start, end, margin=0.0)
    source_start, source_end = found.source_offset
    return [
        {
            "document_id": document.id,
            "source_id": found.source,
            "file_path": document.meta.get("file_path"),
            "page_number": found.page_number,
            "start_char": source_start,
            "end_char": source_end,
        }
    ]
