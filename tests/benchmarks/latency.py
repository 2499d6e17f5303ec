"""Cold and warm latency of a question on the shipped corpus.

usage: python tests/benchmarks/latency.py [ROUNDS]
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from results import record, table

from needle.data import SHIPPED_CORPUS
from needle.data.squad import read_squad
from needle.pipelines import QA

rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
needle = Path(sys.executable).with_name("needle")
asked = [q.question for q in read_squad(SHIPPED_CORPUS / "questions.json")[::7]]


def row(name: str, seconds: list[float]) -> list[object]:
    values = 1000 * np.array(seconds)
    return [name, *(f"{value:.0f}" for value in (np.median(values), values.min(), np.percentile(values, 95)))]


with tempfile.TemporaryDirectory() as folder:
    store = f"{folder}/store"
    qa = QA.open(store)
    qa.index([SHIPPED_CORPUS / "documents"])
    cold, warm = [], []
    for question in [asked[0], *asked[:rounds]]:
        started = time.perf_counter()
        subprocess.run([needle, "ask", question, "--store", store], check=True, capture_output=True)
        cold.append(time.perf_counter() - started)
    qa.ask(asked[0])
    for question in asked:
        started = time.perf_counter()
        qa.ask(question)
        warm.append(time.perf_counter() - started)
    started = time.perf_counter()
    qa.ask_many(asked)
    together = (time.perf_counter() - started) / len(asked)
rows = [
    row("`needle ask`, from shell to answer, second use", cold[1:]),
    row("`QA.ask` in a running process", warm),
    row(f"`QA.ask_many`, {len(asked)} questions in one call, a question", [together]),
]
record(
    "Latency",
    "python tests/benchmarks/latency.py",
    "The shipped corpus, ten passages a question, milliseconds:\n\n" + table(["what", "median", "best", "p95"], rows),
)
