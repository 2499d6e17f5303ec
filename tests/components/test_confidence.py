"""What an answer's probability is computed from, and where a reader's calibration is kept."""

import json
import shutil

import numpy as np
import pytest
from haystack import Document

from needle.components.calibration import Calibration
from needle.components.confidence import CALIBRATION_FILE, FEATURES, Confidence, Evidence, confidence_of, features
from needle.components.reader import MiniLMReader
from needle.components.store import SQLiteDocumentStore
from needle.components.weights import open_checkpoint
from needle.data import SHIPPED_READER
from needle.data.errors import ModelError

PARIS = Document(content="Paris is the capital of France.")


def sure(chance: float, reader: str) -> Confidence:
    """Gives every answer this probability, and no answer the rest."""
    same = Calibration(FEATURES, (0.0,) * len(FEATURES), float(np.log(chance / (1 - chance))))
    return Confidence(same, None, 0.0, reader, {"questions": 3})


def test_features_bend_at_0_and_take_the_logarithm_of_counts():
    row = dict(zip(FEATURES, features([Evidence(3.0, -1.0, 99.0, sources=2, words=3, passages=10)])[0], strict=True))
    assert row["log-odds above 0"] + row["log-odds below 0"] == pytest.approx(2.0)
    assert row["log-odds above 0"] == pytest.approx(np.log1p(np.exp(2.0)))
    assert row["gap above 0"] + row["gap below 0"] == pytest.approx(20.0), "a gap counts up to that of no rival"
    assert (row["prior"], row["sources"], row["words"]) == (-1.0, pytest.approx(np.log(2)), pytest.approx(np.log(3)))
    assert row["passages"] == pytest.approx(np.log(10))
    assert features([]).shape == (0, len(FEATURES))


def test_what_is_saved_is_loaded_and_nothing_else_is(tmp_path):
    assert Confidence.load(tmp_path) is None
    confidence = Confidence(Calibration(FEATURES, tuple(np.linspace(-1, 1, 8).tolist()), 0.5), None, -0.75, "abc", {"n": 1})
    confidence.save(tmp_path)
    assert Confidence.load(tmp_path) == confidence
    data = json.loads((tmp_path / CALIBRATION_FILE).read_text())
    for damaged in ("{", "[]", "{}", json.dumps(data | {"answer": {"names": ["a"], "weights": [1], "bias": 0}})):
        (tmp_path / CALIBRATION_FILE).write_text(damaged)
        with pytest.raises(ModelError, match=r"calibration\.json.*needle calibrate"):
            Confidence.load(tmp_path)


def test_a_store_s_own_calibration_goes_before_the_reader_s_and_one_for_other_weights_is_passed_over(tmp_path):
    checkpoint = open_checkpoint()
    shipped = confidence_of(checkpoint, tmp_path)
    assert shipped is not None
    assert shipped.about["questions"] > 1000
    sure(0.3, "other weights").save(tmp_path)
    assert confidence_of(checkpoint, tmp_path) == shipped
    own = sure(0.3, checkpoint.fingerprint())
    own.save(tmp_path)
    assert confidence_of(checkpoint, tmp_path) == own


def test_a_reader_answers_with_the_probabilities_of_its_store(tmp_path):
    store = SQLiteDocumentStore(tmp_path / "store")
    store.write_documents([PARIS])
    sure(0.3, open_checkpoint().fingerprint()).save(store.folder)
    answers = MiniLMReader(document_store=store).run("What is the capital of France?", [PARIS])["answers"]
    assert {answer.data: answer.score for answer in answers}["Paris"] == pytest.approx(0.3)
    assert [a.score for a in answers if a.data is None] == [pytest.approx(0.7)]


def test_a_reader_without_a_calibration_takes_the_model_s_own_odds(tmp_path):
    shutil.copytree(SHIPPED_READER, tmp_path / "reader")
    (tmp_path / "reader" / CALIBRATION_FILE).unlink()
    reader = MiniLMReader(str(tmp_path / "reader"))
    best, *_ = reader.run("What is the capital of France?", [PARIS])["answers"]
    assert reader.confidence is None
    assert best.score == pytest.approx(1 / (1 + np.exp(-best.meta["evidence"]["margin"])))
