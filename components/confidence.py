"""Evidence for an answer -> the probability that it is right; kept beside a reader's weights, or in a store.

Two logistic models (`needle.components.calibration`): one for "this text is the answer", as SQuAD's exact match has it, and
one for "these passages hold no answer". Their features are taken from what the reader saw and from how the answer stands
among the others, so that one pair of models serves a single passage and the ten passages of a search.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from needle.components.calibration import Calibration
from needle.components.weights import Checkpoint
from needle.data.errors import ModelError
from needle.data.whole_files import replace_file

CALIBRATION_FILE = "calibration.json"

#: The gap of an answer that has no rival, and the most that counts of any.
NO_RIVAL = 20.0


class Evidence(NamedTuple):
    """What an answer's probability is computed from.

    margin: span_score - null_score of the best place where its text was found. prior: of that place's passage. gap: its
    log-odds, margin + prior, less those of the best other answer. sources: documents in which the text was found.
    words: how long it is. passages: how many were read.
    """

    margin: float
    prior: float = 0.0
    gap: float = NO_RIVAL
    sources: int = 1
    words: int = 1
    passages: int = 1


#: The features that `features` makes.
FEATURES = ("log-odds above 0", "log-odds below 0", "gap above 0", "gap below 0", "prior", "sources", "words", "passages")


def features(evidence: Sequence[Evidence]) -> NDArray[np.float64]:
    """(n, 8) features of n answers, in the order of `FEATURES`.

    Log-odds and gap each bend at 0: softplus(x) and -softplus(-x), whose sum is x, so that a reader that is too sure of
    its answers need not be so of its doubts. Counts enter by their logarithm.
    """
    margin, prior, gap, sources, words, passages = np.array(evidence, np.float64).reshape(-1, len(Evidence._fields)).T
    log_odds, gap = margin + prior, np.clip(gap, -NO_RIVAL, NO_RIVAL)
    bent = [np.logaddexp(0, log_odds), -np.logaddexp(0, -log_odds), np.logaddexp(0, gap), -np.logaddexp(0, -gap)]
    return np.column_stack([*bent, prior, np.log(sources), np.log(np.maximum(words, 1)), np.log(passages)])


@dataclass(frozen=True)
class Confidence:
    """How sure to be of answers, by what came true on labelled questions.

    answer, no_answer: the models, on `FEATURES`; the second one's are those of a question's best answer, and where it is
    None, "no answer" gets 1 - the best answer's probability. null_threshold: above which "no answer" is the likelier.
    reader: the fingerprint of the weights that it was fitted for. about: facts on the fit, for people.
    """

    answer: Calibration
    no_answer: Calibration | None
    null_threshold: float
    reader: str
    about: dict[str, Any] = field(default_factory=dict)

    def of_answers(self, evidence: Sequence[Evidence]) -> list[float]:
        """The probability that each is right."""
        return [float(p) for p in self.answer.probability(features(evidence))]

    def of_no_answer(self, best: Evidence) -> float:
        """The probability that there is no answer, from the best one's evidence."""
        if self.no_answer is None:
            return 1 - self.of_answers([best])[0]
        return float(self.no_answer.probability(features([best]))[0])

    def save(self, folder: Path) -> Path:
        """Write it into a reader's or a store's folder.

        :raises ModelError: if it can't be written.
        """
        file = folder / CALIBRATION_FILE
        try:
            replace_file(file, lambda path: path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8"))
        except OSError as error:
            raise ModelError(f"The calibration can't be written to '{file}': {error}") from error
        return file

    @classmethod
    def load(cls, folder: Path) -> Confidence | None:
        """What `save` wrote into a folder; None if there is nothing.

        :raises ModelError: if the file is damaged, or of features that this needle does not have.
        """
        file = folder / CALIBRATION_FILE
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            answer = Calibration.from_dict(data.pop("answer"))
            no_answer = None if data["no_answer"] is None else Calibration.from_dict(data["no_answer"])
            del data["no_answer"]
            if any(model.names != FEATURES for model in (answer, no_answer or answer)):
                raise ValueError(f"its features are not {list(FEATURES)}")
            return cls(answer, no_answer, **data)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"The calibration '{file}' can't be used: {error}. Delete it, or run `needle calibrate`."
            ) from error


def confidence_of(checkpoint: Checkpoint, store_folder: Path | None) -> Confidence | None:
    """What a reader's answers are calibrated by: what was fitted on this store's questions, or else what came with the
    reader, or None. One fitted for other weights is passed over."""
    if checkpoint.weights_file is None:
        return None
    fingerprint = None
    for folder in (store_folder, checkpoint.folder):
        found = None if folder is None else Confidence.load(folder)
        if found is not None:
            fingerprint = fingerprint or checkpoint.fingerprint()
            if found.reader == fingerprint:
                return found
    return None
