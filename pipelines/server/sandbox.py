"""Uploaded files -> Documents, in a process of its own with bounds on time and memory: a file may be a bomb.

`python -m needle.pipelines.server.sandbox BYTES SECONDS` is that process. It reads, again and again, a line of JSON
`{"path", "size"}` and so many bytes, and writes a line `{"documents": [[content, meta], ...]}` or `{"reason": "..."}`.
JSON and not pickle: what comes from it is data, whatever has happened in there.
"""

from __future__ import annotations

import json
import os
import resource
import select
import subprocess
import sys
import time
from typing import IO, Any

from haystack import Document

from needle.data.errors import UnreadableFile

#: Seconds that the process may take to start, on a busy machine.
_START_S = 60
#: What a document may grow to on the way: characters for each byte that may be had.
_BYTES_PER_CHAR = 8


class Sandbox:
    """Reads one file after another in a process that is started when needed, and anew when a file was its end."""

    def __init__(self, most_bytes: int, most_s: int):
        self.most_bytes, self.most_s = most_bytes, most_s
        self._process: subprocess.Popen[bytes] | None = None

    def convert(self, path: str, data: bytes) -> list[Document]:
        """:raises UnreadableFile: if no text can be had from it, or not within the bounds."""
        process = self._started()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps({"path": path, "size": len(data)}).encode() + b"\n" + data)
            process.stdin.flush()
            answer = json.loads(_line(process, self.most_s))
        except TimeoutError:
            self.close()
            raise UnreadableFile(f"reading it took more than {self.most_s} seconds") from None
        except (OSError, ValueError, EOFError):  # it is gone, in the middle of a line or before it
            self.close()
            raise UnreadableFile(
                f"reading it took more than {self.most_s} seconds or {self.most_bytes >> 20:,} MiB of memory"
            ) from None
        if "reason" in answer:
            raise UnreadableFile(answer["reason"])
        return [Document(content=content, meta=meta) for content, meta in answer["documents"]]

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            command = [sys.executable, "-m", __name__, str(self.most_bytes), str(self.most_s)]
            environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
            )
            if _line(self._process, _START_S) != b"ready\n":
                raise RuntimeError("The process that reads uploads could not be started.")
        return self._process


def _line(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    """:raises TimeoutError, EOFError:"""
    assert process.stdout is not None
    number, end = process.stdout.fileno(), time.monotonic() + seconds
    parts: list[bytes] = []
    while not parts or not parts[-1].endswith(b"\n"):
        if not select.select([number], [], [], max(0.0, end - time.monotonic()))[0]:
            raise TimeoutError
        if not (part := os.read(number, 2**20)):
            raise EOFError
        parts.append(part)
    return b"".join(parts)


def _serve(most_bytes: int, most_s: int) -> None:
    """The process' life. Memory is counted from what the interpreter and its libraries take; time is the processor's."""
    from needle.pipelines.console import import_haystack_without_torch

    import_haystack_without_torch()
    from needle.data.files import convert

    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a parser prints is no reply
    taken = _address_space()
    resource.setrlimit(resource.RLIMIT_AS, (taken + most_bytes, taken + most_bytes))
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it writes no files
    _reply(replies, b"ready\n")
    while header := sys.stdin.buffer.readline():
        request = json.loads(header)
        used = resource.getrusage(resource.RUSAGE_SELF)
        resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + most_s + 1, hard))
        answer: dict[str, Any]
        try:
            found = convert(request["path"], sys.stdin.buffer.read(request["size"]))
            if sum(len(document.content or "") for document in found) > most_bytes // _BYTES_PER_CHAR:
                raise UnreadableFile("it holds more text than a file may")
            answer = {"documents": [[document.content, document.meta] for document in found]}
            line = json.dumps(answer).encode() + b"\n"
        except UnreadableFile as error:
            line = json.dumps({"reason": str(error)}).encode() + b"\n"
        except MemoryError:
            line = json.dumps({"reason": f"reading it took more than {most_bytes >> 20:,} MiB of memory"}).encode() + b"\n"
        except Exception as error:  # parsers of foreign files fail in their own ways
            line = json.dumps({"reason": f"it could not be read ({type(error).__name__})"}).encode() + b"\n"
        _reply(replies, line)


def _reply(replies: IO[bytes], line: bytes) -> None:
    replies.write(line)
    replies.flush()


def _address_space() -> int:
    """Bytes."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
