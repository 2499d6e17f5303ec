"""Fits the shipped reader's calibration and writes it beside its weights; nothing of SQuAD 2.0 dev is used.

    python tests/benchmarks/calibrate_shipped.py train-natural.json.gz train-squad2-backtranslated.json.gz

Half of the questions are unanswerable, as in SQuAD 2.0 dev. The answerable ones are on Wikipedia and have the answers of
three annotators or more, as a dev question has: what is right by one of three would often be wrong by a single one, and
scores fitted on single ones come out too low. Each question is asked of its own passage, and then a part of them of a
corpus, so that one fit serves both.
"""

from __future__ import annotations

import random
import sys

from haystack import Document

from needle.components.reader import MiniLMReader
from needle.data import SHIPPED_READER
from needle.data.squad import read_squad
from needle.pipelines import QA
from needle.pipelines.calibrate import fit, results_of_pipeline, results_of_reader
from needle.pipelines.evaluate_answers import Progress

CLOSED, OPEN = 6000, 3000
PASSAGES = 3000
OTHER_TEXT = ("Filtered_Reddit_Comments", "Amazon_Reviews")


def main(natural: str, back_translated: str) -> None:
    draw = random.Random(20)
    answerable = [q for q in read_squad(natural) if len(q.answers) >= 3 and not q.title.startswith(OTHER_TEXT)]
    unanswerable = [q for q in read_squad(back_translated) if q.is_impossible]
    closed = [*draw.sample(answerable, CLOSED // 2), *draw.sample(unanswerable, CLOSED // 2)]
    asked = [*closed[: OPEN // 2], *closed[CLOSED // 2 :][: OPEN // 2]]
    qa = QA.from_documents([])
    others = draw.sample([*answerable, *unanswerable], 3 * PASSAGES)
    contexts = list(dict.fromkeys(q.context for q in [*asked, *others]))[:PASSAGES]
    qa.store.write_documents([Document(content=text) for text in contexts])
    reader = MiniLMReader()
    questions = [*closed, *asked]
    results = [*results_of_reader(reader, closed, told("closed")), *results_of_pipeline(qa, asked, told("open"))]
    found = fit(reader, questions, results)
    print(found.before, found.after, found.confidence, sep="\n")
    print(found.confidence.save(SHIPPED_READER))


def told(name: str) -> Progress:
    return lambda done, total: print(f"{name}: {done} of {total}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
