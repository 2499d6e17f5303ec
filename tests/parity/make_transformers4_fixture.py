"""The answers of Transformers 4's question-answering pipeline with the shipped reader; run by `transformers4.sh`.

`weights FOLDER` (in needle's environment) writes the reader's dequantised weights in Hugging Face format; `answers FOLDER
FILE` (in that of Transformers 4) asks the questions of `legacy_cases` and writes, by group:

answers: what the pipeline returned for each pair by itself. batched: what it returned for the list, with a batch_size; only
the number of results that differ from `answers` by more than 1e-5, and the greatest difference. windows: for contexts of
several windows, what its own `postprocess` makes of each window, from which the test knows what a merge should give.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

from legacy_cases import pipeline_groups


def write_weights(folder: Path) -> None:
    from needle.components.hugging_face import save_hugging_face
    from needle.components.weights import open_checkpoint

    save_hugging_face(open_checkpoint(), folder)


def write_answers(folder: Path, file: Path) -> None:
    import torch
    import transformers

    torch.set_num_threads(2)
    asked = transformers.pipeline("question-answering", model=str(folder), device="cpu", torch_dtype=torch.float32)
    outputs: list[Any] = []
    whole = asked.postprocess

    def postprocess(model_outputs: list[Any], **options: Any) -> Any:
        """As it is, and by window: its answers, then "no answer" where that was asked for."""
        answers = [packed(whole([one], **{**options, "handle_impossible_answer": False})) for one in model_outputs]
        windows = [one if isinstance(one[0], list) else [one] for one in answers]
        if options.get("handle_impossible_answer"):
            for window, one in zip(windows, model_outputs, strict=True):
                all_of_it = whole([one], **{**options, "top_k": 1000})
                window.append(next(packed(row) for row in all_of_it if not row["answer"]))
        outputs.append(windows if len(model_outputs) > 1 else None)
        return whole(model_outputs, **options)

    groups = []
    for group in pipeline_groups():
        outputs.clear()
        asked.postprocess = postprocess
        answers = [packed(asked(question=q, context=c, **group.options)) for q, c in group.pairs]
        windows = list(outputs)
        asked.postprocess = whole
        examples = [{"question": q, "context": c} for q, c in group.pairs]
        together = [packed(one) for one in asked(examples, batch_size=8, **group.options)]
        apart = [distance(one, other) for one, other in zip(answers, together, strict=True)]
        batched = {"differ": sum(d > 1e-5 for d in apart), "most": max(apart)}
        groups.append({"name": group.name, "answers": answers, "windows": windows, "batched": batched})
        print(group.name, len(answers), sum(w is not None for w in windows), batched, flush=True)
    told = {"transformers": transformers.__version__, "torch": torch.__version__, "groups": groups}
    file.write_bytes(gzip.compress(json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode(), mtime=0))


def packed(result: Any) -> Any:
    """A dict as [score, start, end, answer], a list of dicts as a list of these."""
    if isinstance(result, list):
        return [packed(one) for one in result]
    return [float(f"{result['score']:.7g}"), int(result["start"]), int(result["end"]), result["answer"]]


def distance(one: Any, other: Any) -> float:
    """The greatest difference of scores; 1 if anything else differs."""
    flat = [x if x and isinstance(x[0], list) else [x] for x in (one, other)]
    if [a[1:] for a in flat[0]] != [a[1:] for a in flat[1]]:
        return 1.0
    return max(abs(a[0] - b[0]) for a, b in zip(*flat, strict=True))


if __name__ == "__main__":
    what, *paths = sys.argv[1:]
    {"weights": write_weights, "answers": write_answers}[what](*map(Path, paths))
