"""What a server takes at most."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes or characters, times in seconds.

    batch: questions that are read together; more make each wait longer and are hardly faster. waiting: questions that may
    wait for their batch, and deadline_s: how long for their answers. tasks: searches and changes of documents at once.
    jobs: uploads that may wait. convert_s, convert_bytes: time (of the clock and of the processor) and memory for reading
    one uploaded file. body_s: the longest pause in a request's body. grace_s: how long a server that is told to stop
    finishes what it has accepted.
    """

    question_chars: int = 1000
    batch_questions: int = 64
    top_k: int = 50
    ask_bytes: int = MIB
    documents: int = 1000
    document_chars: int = 10_000_000
    documents_bytes: int = 16 * MIB
    upload_files: int = 64
    upload_bytes: int = 32 * MIB
    batch: int = 16
    waiting: int = 256
    deadline_s: float = 30.0
    tasks: int = 32
    jobs: int = 16
    convert_s: int = 60
    convert_bytes: int = 1024 * MIB
    body_s: float = 30.0
    grace_s: float = 30.0

    def of(self, path: str) -> int:
        """The most bytes that a request to this path may have."""
        return {"/uploads": self.upload_bytes, "/documents": self.documents_bytes}.get(path, self.ask_bytes)
