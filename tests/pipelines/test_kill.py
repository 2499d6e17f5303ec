"""`kill -9` of an indexing process, at any moment, loses nothing that was committed and leaves nothing half done."""

import hashlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import IO

import pytest
from haystack import Document

from needle.components.passages import PassageSplitter
from needle.components.retrievers import BM25Retriever
from needle.components.store import SQLiteDocumentStore
from needle.components.tokenizer import PassageTokenizer
from needle.data import SHIPPED_READER

NEEDLE = Path(sys.executable).with_name("needle.exe" if os.name == "nt" else "needle")
KILLS = 20
WORDS = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "jetty", "knoll", "ledge"]

pytestmark = pytest.mark.skipif(not NEEDLE.exists(), reason="the needle command is not installed beside this Python")


class Folder:
    """Documents that change all the time; it remembers every text that it ever held."""

    def __init__(self, path: Path):
        self.path = path
        self.random = random.Random(7)
        self.texts: dict[str, str] = {}  # by digest
        self.versions = 0
        path.mkdir()

    def write(self, number: int) -> None:
        """Give a file a new text, in one step, as careful editors do."""
        self.versions += 1
        words = " ".join(self.random.choices(WORDS, k=9))
        text = " ".join(f"Line {i} of file {number} in version {self.versions} tells of {words}." for i in range(20))
        self.texts[hashlib.sha256(text.encode()).hexdigest()] = text
        (self.path / ".new").write_text(text)
        os.replace(self.path / ".new", self.path / f"{number:03}.txt")

    def grow(self, files: int) -> None:
        """Rewrite all files, and add some until there are this many."""
        for number in range(files):
            self.write(number)


def test_kill_9_at_any_moment(tmp_path):
    folder = Folder(tmp_path / "docs")
    store, indexed, counts = tmp_path / "store", set(), set()
    interrupted = 0
    for kill in range(KILLS):
        folder.grow(200 + 10 * kill)
        before = digests(store)
        process = index(folder.path, store)
        committed = threading.Thread(target=read_lines, args=(process.stderr, folder.random.randint(0, 5)))
        committed.start()
        while committed.is_alive():
            folder.write(folder.random.randrange(200))
            time.sleep(0.05)
        time.sleep(folder.random.uniform(0, 0.2))
        process.kill()
        process.communicate()

        shutil.copytree(store, tmp_path / "copy", ignore=shutil.ignore_patterns("bm25"), dirs_exist_ok=True)
        files = check(store, tmp_path / "copy", folder)
        shutil.rmtree(tmp_path / "copy")
        assert indexed <= set(files)
        indexed = set(files)
        rewritten = sum(before.get(path) != digest for path, digest in files.items())
        interrupted += 0 < rewritten < 200 + 10 * kill
        counts.add(len(indexed))
    assert interrupted >= 3, "too few kills fell into the writing to tell anything"
    assert len(counts) >= 3

    last = index(folder.path, store)
    last.communicate()
    assert last.returncode == 0
    files = check(store, store, folder)
    assert files == {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.path.resolve().glob("*.txt")}


def index(documents: Path, store: Path) -> subprocess.Popen[bytes]:
    command = [NEEDLE, "index", documents, "--store", store]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def read_lines(progress: IO[bytes], n: int) -> None:
    """Wait for so many lines, one for every batch of files that was committed, or the end."""
    for _ in range(n):
        progress.readline()


def digests(folder: Path) -> dict[str, str]:
    with SQLiteDocumentStore(folder) as store:
        return {path: file.digest for path, file in store.files().items()}


def check(folder: Path, copy: Path, documents: Folder) -> dict[str, str]:
    """Assert that a store is whole, and agrees with a copy that has no indexes; returns its files' digests."""
    with sqlite3.connect(folder / "needle.sqlite") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    with SQLiteDocumentStore(folder) as store:
        files, passages = store.files(), store.filter_documents()
        of_file = defaultdict(list)
        for passage in passages:
            of_file[passage.meta["file_path"]].append(passage.content)
        assert of_file.keys() == files.keys()  # no passage of a file that is not wholly there
        for path, contents in of_file.items():
            text = documents.texts[files[path].digest]
            expected = PassageSplitter().run([Document(content=text)])["documents"]
            assert contents == [p.content for p in expected]
            assert len(contents) == files[path].passages > 1
        tokenizer = PassageTokenizer.from_folder(SHIPPED_READER)
        assert all(t is not None and len(t.ids) > 0 for t in store.tokens(passages, tokenizer.fingerprint))
        queries = [*WORDS[:3], "delta of file 7", "line version amber birch"]
        with SQLiteDocumentStore(copy) as other:
            for found, anew in zip(search(store, queries), search(other, queries), strict=True):
                assert found == pytest.approx(anew, rel=1e-9)  # sums of many numbers, in another order
                assert found or not files
    return {path: file.digest for path, file in files.items()}


def search(store: SQLiteDocumentStore, queries: list[str]) -> list[dict[str, float]]:
    """The scores of all passages that match, by id."""
    found = BM25Retriever(store, top_k=10_000).run(queries=queries)["documents_per_query"]
    return [{document.id: document.score for document in documents} for documents in found]
