"""The answers of Haystack 1.26's readers with the shipped reader's weights; run by `farm.sh`.

It writes, by reading of `legacy_cases`: answers: for each question [score, text, start, end, context, start in it, number of
the document], "" and null for "no answer"; gaps: no_ans_gap; best: what "no answer" was measured against.

Confidences are softmaxes over a window with its padding, which models that were trained with padding have learnt to rate
low; the shipped one was trained without. So padding's logits are taken away, but for `padded`, the first reading as it was.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import haystack
import transformers
from haystack import Document
from haystack.nodes import FARMReader, TransformersReader
from legacy_cases import farm_readings


def answered(reader: Any, asked: list[tuple[str, list[str]]]) -> dict[str, Any]:
    best: list[float] = []
    calculate = reader._calc_no_answer

    def seen(gaps: Any, best_score: float, *rest: Any) -> Any:
        best.append(float(best_score))
        return calculate(gaps, best_score, *rest)

    reader._calc_no_answer = seen
    answers, gaps = [], []
    for question, texts in asked:
        documents = [Document(content=text, id=str(i)) for i, text in enumerate(texts)]
        found = reader.predict(question, documents)
        answers.append([row(answer) for answer in found["answers"]])
        gaps.append(float(found.get("no_ans_gap", 0.0)))
    return {"answers": answers, "gaps": gaps, "best": best}


def without_padding(reader: Any) -> None:
    head = reader.inferencer.model.prediction_heads[0]
    predict = head.logits_to_preds

    def masked(logits: Any, *rest: Any, padding_mask: Any, **more: Any) -> Any:
        return predict(logits.masked_fill(padding_mask[:, :, None] == 0, -1e4), *rest, padding_mask=padding_mask, **more)

    head.logits_to_preds = masked


def row(answer: Any) -> list[Any]:
    score = float(f"{answer.score:.7g}")
    if not answer.answer:
        return [score, "", 0, 0, None, 0, None]
    place, inside = answer.offsets_in_document[0], answer.offsets_in_context[0]
    return [score, answer.answer, place.start, place.end, answer.context, inside.start, int(answer.document_ids[0])]


def main(folder: Path, file: Path) -> None:
    farm = []
    padded = None
    for reading in farm_readings():
        reader = FARMReader(str(folder), use_gpu=False, num_processes=0, progress_bar=False, **reading.options)
        padded = padded or answered(reader, reading.asked)
        without_padding(reader)
        farm.append({"name": reading.name, **answered(reader, reading.asked)})
        print(reading.name, len(reading.asked), flush=True)
    reading = farm_readings()[1]
    reader = TransformersReader(str(folder), use_gpu=False, return_no_answers=True)
    told = {
        "haystack": haystack.__version__,
        "transformers": transformers.__version__,
        "farm": farm,
        "padded": padded,
        "transformers_reader": answered(reader, reading.asked),
    }
    file.write_bytes(gzip.compress(json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode(), mtime=0))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
