"""Batch indexing on two nodes makes the store that `QA.index` makes, whatever dies in the middle."""

from pathlib import Path

import pytest
import yaml
from ray_nodes import Nodes, kill_a_worker

from needle.data import SHIPPED_CORPUS
from needle.pipelines import QA, batch
from needle.pipelines.batch import indexing
from needle.pipelines.loading import DEFINITIONS


def test_a_deadly_file_is_skipped(nodes: Nodes, corpus_qa: QA, tmp_path, monkeypatch):
    monkeypatch.setattr(indexing, "_FILES", 8)
    monkeypatch.setattr(indexing, "_TRIES", 2)
    monster = tmp_path / "monster.txt"
    monster.write_text("A monster is in this file.")
    gone = tmp_path / "empty.txt"
    gone.touch()
    paths = [SHIPPED_CORPUS / "documents", monster, gone]
    store = tmp_path / "store"
    killed = []

    def progress(thing: str, done: int, total: int) -> None:
        if thing == "file" and not killed:
            killed.append(done)
            kill_a_worker()

    options = {"indexing": str(with_deadly(tmp_path)), "address": nodes.address}
    report = batch.index(paths, store, **options, progress=progress)
    assert killed
    assert len(report.indexed) == 45
    assert {(s.path, s.reason) for s in report.skipped} == {
        (str(monster), "workers died of it 2 times (of too little memory?)"),
        (str(gone), "the file is empty"),
    }
    made = QA.open(store).store
    assert made.files() == corpus_qa.store.files()
    assert report.passages == made.count_documents()
    passages = {p.id: p for p in corpus_qa.store.filter_documents()}
    assert {p.id: p for p in made.filter_documents()} == passages
    tokenizer = next(iter(made.files().values())).tokenizer
    assert made.count_tokens(tokenizer) == len(passages)

    again = batch.index(SHIPPED_CORPUS / "documents", store, **options)
    assert (len(again.indexed), len(again.unchanged), again.passages) == (0, 45, 0)


def with_deadly(folder: Path) -> Path:
    """needle's own indexing, with a component that a file's text kills."""
    definition = yaml.safe_load((DEFINITIONS / "indexing.yaml").read_text())
    definition["components"]["deadly"] = {"type": "deadly.Deadly", "init_parameters": {}}
    for edge in definition["connections"]:
        if edge["receiver"] == "splitter.documents":
            first = edge["sender"]
            edge["sender"] = "deadly.documents"
    definition["connections"].append({"sender": first, "receiver": "deadly.documents"})
    file = folder / "indexing.yaml"
    file.write_text(yaml.safe_dump(definition))
    return file


def test_passages_are_embedded_by_workers(nodes: Nodes, tmp_path):
    some = sorted((SHIPPED_CORPUS / "documents").iterdir())[:6]
    done = []
    report = batch.index(
        some, tmp_path / "made", pipeline="dense_qa", address=nodes.address, progress=lambda *told: done.append(told)
    )
    assert done[-1] == ("passage", report.passages, report.passages)
    alone = QA.open(tmp_path / "alone", "dense_qa")
    alone.index(some)
    made = QA.open(tmp_path / "made", "dense_qa")
    for query in ("Who climbed the mountain first?", "What is it made of?"):
        found, expected = ({d.id: d.score for d in qa.search(query)} for qa in (made, alone))
        assert found == pytest.approx(expected, abs=2e-3)  # in bfloat16 a vector depends on its batch
