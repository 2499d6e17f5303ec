"""needle's BM25 against other implementations: building, saving, loading, searching, changing, memory.

usage: pip install bm25s tantivy scipy
       python tests/benchmarks/bm25_speed.py FILE... [--passages 100000] [--queries 1000]
FILE: SQuAD format; passages.py tells what is made of them. The systems are in bm25_systems.py.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bm25_systems import SYSTEMS, TOP_K, Needle, RankBM25, System, filter_rows
from memory import forget_peak, peak, resident
from passages import passages, questions
from results import record, table

CHANGED = 1_000  # passages added, and deleted
FILTERED = 200  # questions asked with a filter
LARGE = 200_000  # passages; with more, slow systems answer fewer questions, and Haystack's store is not written as JSON

Figures = dict[str, Any]


# In a process for each system and phase


class Work:
    """What one process measures of a system."""

    def __init__(self, name: str, folder: Path):
        self.make = SYSTEMS[name]
        self.folder = folder / "index"
        self.n, self.asked, self.more = pickle.loads((folder / "questions.pickle").read_bytes())
        self.texts_file = folder / "texts.pickle"
        if self.make.slow:
            self.asked = self.asked[: 5 if self.n > LARGE else 20]
        for module in self.make.modules:
            importlib.import_module(module)
        self.cores = len(os.sched_getaffinity(0))

    def build(self) -> Figures:
        with self.texts_file.open("rb") as file:
            texts = pickle.load(file)
        self._warm(texts[:1000])
        make, system = self.make, self.make(self.folder, self.n)
        before = give_back()
        forget_peak()
        figures: Figures = {}
        if make.takes_texts:
            figures["build"] = seconds(lambda: system.build(texts))
            figures["build peak"] = peak() - before
        if make.takes_tokens:
            started = time.perf_counter()
            tokens = [system.analyzer.terms(text) for text in texts]
            analysis = time.perf_counter() - started
            figures["build of tokens"] = seconds(lambda: system.build_tokens(tokens))
            if not make.takes_texts:
                figures["build"] = analysis + figures["build of tokens"]
                figures["build peak"] = peak() - before
            del tokens
        if make.saves and not (make.slow and self.n > LARGE):
            saving = seconds(system.save)
            figures["save"] = "in build" if make.on_disk else saving
            figures["size"] = sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file()) / 2**20
        # Slow systems take too long to be built or loaded once more.
        return figures | (self._searched(system, before) if make.slow else {})

    def build_all_cores(self) -> Figures:
        return {"build, all cores": self.build()["build"]}

    def load(self) -> Figures:
        system = self.make(self.folder, self.n)
        return {"load": seconds(lambda: (system.load(), system.search(self.asked[0])))}

    def search(self) -> Figures:
        before = give_back()
        system = self.make(self.folder, self.n)
        figures: Figures = {"load": seconds(lambda: (system.load(), system.search(self.asked[0])))}
        system.search_many(self.asked[:100], 1)
        figures |= self._searched(system, before) | {"batch": self._batch(system)}
        some = self.asked[:FILTERED]
        for rows in filter_rows(self.n):
            system.search_filtered(some[0], rows)
            times = [seconds(partial(system.search_filtered, question, rows)) for question in some]
            figures[rows] = 1000 * float(np.median(times))
        return figures

    def search_all_cores(self) -> Figures:
        system = self.make(self.folder, self.n)
        system.load()
        system.search_many(self.asked[:100], self.cores)
        return {"batch, all cores": self._batch(system)}

    def change(self) -> Figures:
        system, question = self.make(self.folder, self.n), self.asked[0]
        system.load()
        system.search(question)
        system.open_for_changes()
        added = range(self.n, self.n + CHANGED)
        removed = np.sort(np.random.default_rng(2).permutation(self.n)[:CHANGED])
        return {
            "add": seconds(lambda: (system.add(added, self.more), system.search(question))),
            "remove": seconds(lambda: (system.remove(removed), system.search(question))),
        }

    def _searched(self, system: System, before: float) -> Figures:
        """before: MiB resident without the index."""
        found, times = [], []
        for question in self.asked:
            started = time.perf_counter()
            _, scores = system.search(question)
            times.append(1000 * (time.perf_counter() - started))
            found.append(list(map(float, scores)))
        return {
            "resident": give_back() - before,
            "questions": len(times),
            "median": float(np.median(times)),
            "p95": float(np.percentile(times, 95)),
            "scores": found[:20],
        }

    def _batch(self, system: System) -> float:
        return 1000 * min(seconds(lambda: system.search_many(self.asked, self.cores)) for _ in range(3)) / len(self.asked)

    def _warm(self, texts: list[str]) -> None:
        """Compile what building takes."""
        with tempfile.TemporaryDirectory() as folder:
            system = self.make(Path(folder), len(texts))
            if self.make.takes_texts:
                system.build(texts)
            if self.make.takes_tokens:
                system.build_tokens([system.analyzer.terms(text) for text in texts])


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def give_back() -> float:
    """Return freed memory to the machine, that `resident` be what is in use; MiB."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return resident()


def prepare(folder: Path, files: list[str], n: int, queries: int) -> None:
    texts = list(passages(files, n + CHANGED))
    more, texts[n:] = texts[n:], []
    (folder / "questions.pickle").write_bytes(pickle.dumps((n, questions(files, queries), more)))
    with (folder / "texts.pickle").open("wb") as file:
        pickle.dump(texts, file)


# In the process that starts them


def run(cores: set[int], *arguments: str) -> str:
    """This script on some cores, in a process of its own; its last line of output."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), str(len(cores)))
    done = subprocess.run(
        [sys.executable, __file__, "--work", *arguments],
        env=os.environ | threads,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()[-1] if done.stdout else ""


def measured(make: type[System], folder: Path, n: int) -> Figures:
    every = os.sched_getaffinity(0)
    phases = ["build"]
    if make.slow:
        phases += ["load"] * (make.saves and n <= LARGE)
    else:
        phases += ["search", "search_all_cores", *["change"] * make.changes]
    if make.many_cores_build:
        phases.insert(0, "build_all_cores")
    figures: Figures = {}
    for phase in phases:
        if phase.startswith("build"):
            index = folder / "index"
            subprocess.run(["rm", "-rf", index], check=True)
            index.mkdir()
        started = time.perf_counter()
        try:
            cores = every if phase.endswith("all_cores") else {max(every)}
            figures |= json.loads(run(cores, phase, make.name, str(folder)))
        except subprocess.CalledProcessError as error:  # hours may lie in the other figures
            print(f"{make.name}: {phase} failed: {error}", file=sys.stderr)
            figures["failed"] = phase
            break
        print(f"{make.name}: {phase}, {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return figures


def shown(value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3f}"


def comparison(figures: dict[str, Figures], columns: dict[str, str]) -> str:
    """columns: heading -> figure. Systems that have none of them are left out."""
    some = {name: [f.get(key) for key in columns.values()] for name, f in figures.items()}
    rows: list[list[object]] = [[name, *map(shown, cells)] for name, cells in some.items() if any(cells)]
    return table(["system", *columns], rows)


def difference(ours: list[list[float]], theirs: list[list[float]]) -> float:
    """The largest between two systems' best scores, relative; one may find fewer: rank_bm25 alone returns what scores 0."""
    pairs = [(a, b) for one, other in zip(ours, theirs, strict=False) for a, b in zip(one, other, strict=False)]
    return max(abs(a - b) / abs(b) for a, b in pairs)


BUILDING = {
    "text to index, s": "build",
    "the same, all cores": "build, all cores",
    "terms to index, s": "build of tokens",
    "peak MiB": "build peak",
    "saved, s": "save",
    "on disk, MiB": "size",
    "loaded and first answer, s": "load",
    "resident MiB": "resident",
}
SEARCHING = {
    "one at a time, median": "median",
    "p95": "p95",
    "batch": "batch",
    "batch, all cores": "batch, all cores",
    "among half of all": "half",
    "among a hundredth": "hundredth",
}
CHANGING = {"added": "add", "deleted": "remove"}

TEXT = """The {n:,} passages that passages.py makes, {queries:,} real questions, the best {top_k}. Every figure comes from
a fresh process, one after another, with one core and every library on one thread unless a column says "all cores". Imports
aren't timed, but what a system itself imports or compiles late is part of its first answer. Building starts with the texts
in memory and all compiled; the peak is what it takes beyond. "Loaded" is from files that the machine has in its cache to
the first answer. Resident is with all that the questions have touched, mapped files included, beyond the imported modules.
A question's time includes its analysis; a batch is all questions in one call, best of three.

bm25s is built of text by its own tokenizer, but what is searched is its index of needle's terms, that all do the same
work. Tantivy has two rows for that: `en_stem` keeps stop words. rank_bm25 and Haystack answer {few} questions.{not_saved}

{building}

Milliseconds a question:

{searching}

The filters let a random half or hundredth of the passages through: needle and bm25s are given the rows or a mask (made
before), the retriever and Tantivy filter by a field.

{changed:,} passages added, then as many deleted: seconds until the next question is answered (bm25s has to be built anew):

{changing}
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+")
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=1000)
    given = parser.parse_args()
    n = given.passages
    with tempfile.TemporaryDirectory() as folder:
        run(os.sched_getaffinity(0), "prepare", folder, str(n), str(given.queries), *given.files)
        figures = {name: measured(make, Path(folder), n) for name, make in SYSTEMS.items()}
    few = figures[RankBM25.name].get("questions")
    text = TEXT.format(
        n=n,
        queries=given.queries,
        top_k=TOP_K,
        few=few,
        not_saved=f" Above {LARGE:,} passages Haystack's store isn't saved." if n > LARGE else "",
        building=comparison(figures, BUILDING),
        searching=comparison(figures, SEARCHING),
        changed=CHANGED,
        changing=comparison(figures, CHANGING),
    )
    ours, theirs = (figures[system.name].get("scores") for system in (Needle, RankBM25))
    apart = difference(ours, theirs) if ours and theirs else None
    if apart is not None:
        text += f"\nneedle's scores against rank_bm25's on {few} questions: {apart:.1e} apart at most, relative.\n"
    if failed := {name: f["failed"] for name, f in figures.items() if "failed" in f}:
        text += f"\nFailed: {failed}.\n"
    command = f"python tests/benchmarks/bm25_speed.py {' '.join(sys.argv[1:])}"
    record(f"BM25 speed, {n:,} passages", command, text, ("bm25s", "tantivy", "rank-bm25", "haystack-ai", "scipy"))
    assert apart is None or apart <= 1e-6


if __name__ == "__main__":
    if sys.argv[1] != "--work":
        main()
    elif sys.argv[2] == "prepare":
        prepare(Path(sys.argv[3]), sys.argv[6:], *map(int, sys.argv[4:6]))
    else:
        print(json.dumps(getattr(Work(sys.argv[3], Path(sys.argv[4])), sys.argv[2])()))
