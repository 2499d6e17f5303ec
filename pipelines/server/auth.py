"""Bearer tokens: random, kept only as SHA-256 in a file of mode 600, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from needle.data.errors import NeedleError
from needle.data.whole_files import replace_file


class Scope(StrEnum):
    """What a token lets in. WRITE includes READ."""

    READ = "read"
    WRITE = "write"

    def allows(self, needed: Scope) -> bool:
        return self is Scope.WRITE or needed is Scope.READ


@dataclass(frozen=True)
class Token:
    """sha256: hexadecimal, of the token. A slow hash would add nothing: a token is 256 random bits. created: ISO 8601."""

    name: str
    scope: Scope
    sha256: str
    created: str


class TokenFile:
    """Tokens by name. A change of the file counts from the next request on, so that a token is withdrawn at once."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._read: tuple[tuple[int, int], list[Token]] | None = None

    def tokens(self) -> list[Token]:
        """:raises NeedleError: if there is no such file, or it holds something else."""
        try:
            stat = self.path.stat()
            state = stat.st_mtime_ns, stat.st_ino
            if self._read is None or self._read[0] != state:
                listed = json.loads(self.path.read_text(encoding="utf-8"))
                self._read = state, [Token(**one | {"scope": Scope(one["scope"])}) for one in listed]
        except OSError as error:
            raise NeedleError(
                f"The tokens '{self.path}' can't be read: {error.strerror}. Make one: needle token add NAME --tokens FILE"
            ) from error
        except (ValueError, TypeError, KeyError) as error:
            raise NeedleError(f"'{self.path}' is no file of tokens ({type(error).__name__}).") from error
        return self._read[1]

    def find(self, token: str) -> Token | None:
        """The entry of a token; all are compared, so that the time taken says nothing."""
        digest = _digest(token)
        found = None
        for one in self.tokens():
            if hmac.compare_digest(one.sha256, digest):
                found = one
        return found

    def add(self, name: str, scope: Scope) -> str:
        """Make a token; it is returned, and kept nowhere.

        :raises NeedleError: if there is one of that name, or the file can't be written.
        """
        tokens = self.tokens() if self.path.exists() else []
        if any(one.name == name for one in tokens):
            raise NeedleError(f"There is a token '{name}' already. Choose another name, or remove it first.")
        token = f"needle_{secrets.token_urlsafe(32)}"
        self._write([*tokens, Token(name, scope, _digest(token), datetime.now(UTC).isoformat(timespec="seconds"))])
        return token

    def remove(self, name: str) -> None:
        """:raises NeedleError: if there is none of that name."""
        tokens = self.tokens()
        if all(one.name != name for one in tokens):
            names = ", ".join(one.name for one in tokens) or "none"
            raise NeedleError(f"There is no token '{name}'; there are: {names}.")
        self._write([one for one in tokens if one.name != name])

    def _write(self, tokens: list[Token]) -> None:
        try:
            text = json.dumps([asdict(one) for one in tokens], indent=2)
            replace_file(self.path, lambda path: path.write_text(text, encoding="utf-8"), mode=0o600)
        except OSError as error:
            raise NeedleError(f"The tokens '{self.path}' can't be written: {error.strerror}.") from error


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()
