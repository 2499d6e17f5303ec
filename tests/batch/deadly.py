"""A component that some documents kill the process of, as a file does that takes all memory."""

import os
import signal

from haystack import Document, component


@component
class Deadly:
    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, list[Document]]:
        if any("A monster" in (document.content or "") for document in documents):
            os.kill(os.getpid(), signal.SIGKILL)
        return {"documents": documents}
