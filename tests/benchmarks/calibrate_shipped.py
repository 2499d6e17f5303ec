"""Fits the shipped reader's calibration and writes it beside its weights; nothing of SQuAD 2.0 dev is used.

    python tests/benchmarks/calibrate_shipped.py train-natural.json.gz train-squad2-backtranslated.json.gz

All questions are of passages that `train_last_layers.py` held out, and two in five are unanswerable, which is between SQuAD
2.0's training set (a third) and its dev set (half). The answerable ones have the answers of three annotators
or more, as a dev question has: what is right by one of three would often be wrong by a single one, and scores fitted on
single ones come out too low. Each question is asked of its own passage, and then a part of them of a corpus, so that one fit
serves both; not those on Reddit's comments and Amazon's reviews, which ask of "she" or "the product".
"""

from __future__ import annotations

import random
import sys

from haystack import Document
from train_last_layers import is_held_out

from needle.components.reader import MiniLMReader
from needle.data import SHIPPED_READER
from needle.data.squad import read_squad
from needle.pipelines import QA
from needle.pipelines.calibrate import fit, results_of_pipeline, results_of_reader
from needle.pipelines.evaluate_answers import Progress

#: Answerable questions on Wikipedia, and on other text; unanswerable ones.
ANSWERABLE, OTHER, UNANSWERABLE = 800, 800, 933
#: Of the first and the last of these, asked of so many passages.
OPEN, PASSAGES = (800, 650), 3000
OTHER_TEXT = ("Filtered_Reddit_Comments", "Amazon_Reviews")


def main(natural: str, back_translated: str) -> None:
    draw = random.Random(20)
    first, second = ([q for q in read_squad(file) if is_held_out(q)] for file in (natural, back_translated))
    annotated = [q for q in first if len(q.answers) >= 3]
    answerable = draw.sample([q for q in annotated if not q.title.startswith(OTHER_TEXT)], ANSWERABLE)
    other = draw.sample([q for q in annotated if q.title.startswith(OTHER_TEXT)], OTHER)
    unanswerable = draw.sample([q for q in second if q.is_impossible], UNANSWERABLE)
    closed = [*answerable, *other, *unanswerable]
    asked = [*answerable[: OPEN[0]], *unanswerable[: OPEN[1]]]
    contexts = list(dict.fromkeys(q.context for q in [*asked, *draw.sample(second, len(second))]))[:PASSAGES]
    qa = QA.from_documents([])
    qa.store.write_documents([Document(content=text) for text in contexts])
    reader = MiniLMReader()
    results = [*results_of_reader(reader, closed, told("closed")), *results_of_pipeline(qa, asked, told("open"))]
    found = fit(reader, [*closed, *asked], results)
    print(found.before, found.after, found.confidence, sep="\n")
    print(found.confidence.save(SHIPPED_READER))


def told(name: str) -> Progress:
    return lambda done, total: print(f"{name}: {done} of {total}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
