"""`needle eval retrieval` as users run it: real processes, their output piped; refusals in this one, for speed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from needle.data import SHIPPED_CORPUS
from needle.pipelines.cli_eval import eval_app

NEEDLE = Path(sys.executable).with_name("needle.exe" if os.name == "nt" else "needle")
QUESTIONS = SHIPPED_CORPUS / "questions.json"
DOCUMENTS = {"a": "the red fox", "b": "the fox and the hound", "c": "a sleeping hound"}
TOPICS = {"10": "red fox", "20": "sleeping hound", "30": "unicorn"}
QRELS = "10 0 b 1\n20 0 c 2\n20 0 b 1\n30 0 a 1\n"

pytestmark = pytest.mark.skipif(not NEEDLE.exists(), reason="the needle command is not installed beside this Python")


def needle(*arguments: str | Path, cwd: Path, code: int = 0, what: str = "retrieval") -> tuple[str, str]:
    command = [NEEDLE, "eval", what, *arguments]
    done = subprocess.run(command, capture_output=True, cwd=cwd, timeout=60, check=False, text=True)
    assert "\x1b" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A TREC collection and a saved run of it."""
    folder = tmp_path_factory.mktemp("eval")
    (folder / "docs").write_text("".join(f"<doc><docno>{i}</docno><text>{t}</text></doc>" for i, t in DOCUMENTS.items()))
    (folder / "topics").write_text("".join(f"<top><num>{i}</num><title>{t}</title></top>" for i, t in TOPICS.items()))
    (folder / "qrels").write_text(QRELS)
    (folder / "saved.run").write_text("10 Q0 b 1 2 old\n10 Q0 a 2 1 old\n20 Q0 c 1 1 old\n")
    return folder


TREC = ("docs", "--topics", "topics", "--qrels", "qrels")


class TestTrec:
    def test_measures_are_printed_one_a_line(self, folder):
        out, err = needle(*TREC, cwd=folder)
        heading, *lines = out.splitlines()
        assert heading.startswith("bm25_qa: 3 documents indexed in ")
        assert heading.endswith(" ms, top 100")
        # Ranks of what is relevant: 2; 1 and 2; none.
        assert [line.split() for line in lines] == [
            ["recall@1", "0.1667"],
            ["recall@5", "0.6667"],
            ["recall@10", "0.6667"],
            ["recall@20", "0.6667"],
            ["recall@100", "0.6667"],
            ["mrr@10", "0.5000"],
            ["ndcg@10", "0.5436"],
            ["map", "0.5000"],
        ]
        assert err == ""

    def test_each_query_and_the_run_go_to_files(self, folder, tmp_path):
        needle(*TREC, "--per-query", tmp_path / "q.jsonl", "--save", tmp_path / "my.run", "--top-k", "5", cwd=folder)
        fox, hound, unicorn = map(json.loads, (tmp_path / "q.jsonl").read_text().splitlines())
        assert fox == {
            "id": "10",
            "query": "red fox",
            "recall@1": 0.0,
            "recall@5": 1.0,
            "mrr@5": 0.5,
            "ndcg@5": pytest.approx(0.6309, abs=1e-4),
            "map": 0.5,
            "relevant": [{"id": "b", "grade": 1, "rank": 2}],
        }
        assert hound["relevant"] == [{"id": "c", "grade": 2, "rank": 1}, {"id": "b", "grade": 1, "rank": 2}]
        assert unicorn["relevant"] == [{"id": "a", "grade": 1, "rank": None}]
        lines = [line.split() for line in (tmp_path / "my.run").read_text().splitlines()]
        assert [(topic, q0, docno, rank, tag) for topic, q0, docno, rank, _, tag in lines] == [
            ("10", "Q0", "a", "1", "bm25_qa"),
            ("10", "Q0", "b", "2", "bm25_qa"),
            ("20", "Q0", "c", "1", "bm25_qa"),
            ("20", "Q0", "b", "2", "bm25_qa"),
        ]

    def test_a_saved_run_is_compared(self, folder):
        out, err = needle(*TREC, "--top-k", "2", "--compare", "saved.run", cwd=folder)
        _, heading, first, *_, last = out.splitlines()
        assert heading.split() == ["this", "saved", "difference", "better", "worse", "equal", "p"]
        assert first.split()[:-1] == ["recall@1", "0.1667", "0.5000", "-0.3333", "0", "1", "2"]
        assert last.split()[:-1] == ["map", "0.5000", "0.5000", "+0.0000", "1", "1", "1"]
        assert last.split()[-1] == "1.0000"
        assert "ranks 2 of the 3 queries" in err

    def test_a_saved_run_is_cut_where_this_one_is(self, folder, tmp_path):
        needle(*TREC, "--save", tmp_path / "deep.run", cwd=folder)
        out, _ = needle(*TREC, "--top-k", "1", "--compare", tmp_path / "deep.run", "--json", cwd=folder)
        report = json.loads(out)
        assert report["measures"] == pytest.approx({"recall@1": 1 / 6, "mrr@1": 1 / 3, "ndcg@1": 1 / 3, "map": 1 / 6})
        assert {(c["difference"], c["p"]) for c in report["comparison"].values()} == {(0, 1)}
        assert (report["documents"], report["queries"], report["top_k"], report["pipeline"]) == (3, 3, 1, "bm25_qa")
        assert report["index_s"] > 0 < report["query_ms"]


class TestSquad:
    def test_the_shipped_questions(self, folder):
        own, answer = (
            json.loads(needle(QUESTIONS, "--relevant", relevant, "--json", cwd=folder)[0]) for relevant in ("own", "answer")
        )
        assert own["queries"] == answer["queries"] == 254
        assert own["measures"]["recall@10"] > 0.9
        assert own["measures"]["mrr@10"] < answer["measures"]["mrr@10"]

    def test_the_first_questions_only(self, folder):
        out, err = needle(QUESTIONS, "--limit", "3", "--pipeline", "bm25_qa", "--top-k", "1", cwd=folder)
        assert " 3 queries at " in out
        assert [line.split()[0] for line in out.splitlines()[1:]] == ["recall@1", "mrr@1", "ndcg@1", "map"]
        assert err == ""


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nowhere.json"], "'nowhere.json' can't be read as SQuAD JSON"),
        (["nowhere", *TREC[1:]], "There is no file or folder 'nowhere'"),
        (["docs", "--topics", "topics"], "needs both --topics FILE and --qrels FILE"),
        ([*TREC, "--limit", "3"], "--relevant and --limit are for SQuAD files"),
        ([*TREC, "--retriever", "bm25", "--pipeline", "bm25_qa"], "either by --retriever or by --pipeline"),
        ([*TREC, "--pipeline", "nowhere.yaml"], "needle's own are: bm25_qa"),
        ([*TREC, "--compare", "qrels"], "is not of the form 'topic Q0 docno rank score tag'"),
        ([QUESTIONS, "--compare", "saved.run"], "is a run of another collection"),
    ],
)
def test_what_can_not_be_done_is_told_in_one_line(folder, monkeypatch, arguments, complaint):
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(eval_app, ["retrieval", *map(str, arguments)])
    assert (done.exit_code, done.stdout) == (1, "")
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_file_that_can_not_be_written_is_told(folder):
    _, err = needle(*TREC, "--per-query", "nowhere/q.jsonl", cwd=folder, code=1)
    assert "There is no folder '" in err


class TestAnswers:
    @pytest.fixture
    def squad(self, tmp_path) -> Path:
        """Two paragraphs; a question has its answer, the other none."""
        tarn = "The lighthouse of Tarn was lit in 1842. Its keeper was Ezra Whitcombe."
        answers = [{"text": "1842", "answer_start": tarn.index("1842")}]
        qas = [
            {"id": "a", "question": "When was the lighthouse of Tarn lit?", "answers": answers, "is_impossible": False},
            {"id": "b", "question": "Who painted the lighthouse of Tarn?", "answers": [], "is_impossible": True},
        ]
        other = {"context": "The quill of Orm was red.", "qas": []}
        data = [{"title": "Tarn", "paragraphs": [{"context": tarn, "qas": qas}, other]}]
        (tmp_path / "squad.json").write_text(json.dumps({"version": "2.0", "data": data}))
        return tmp_path

    @pytest.mark.parametrize("what", ["reader", "pipeline"])
    def test_figures_answers_and_a_report(self, squad, what):
        arguments = ("squad.json", "--save", "answers.json", "--report", "report.html")
        out, err = needle(*arguments, cwd=squad, what=what)
        lines = dict(line.rsplit(maxsplit=1) for line in out.splitlines()[1:])
        assert lines["  exact_match"] == lines["  f1"] == "100.00"
        assert lines["  with an answer"] == "1"
        assert err == ""
        assert json.loads((squad / "answers.json").read_text()) == {"a": "1842", "b": ""}
        assert (squad / "report.html").read_text().startswith("<!DOCTYPE html>")
        out, _ = needle("squad.json", "--compare", "answers.json", "--json", cwd=squad, what=what)
        compared = json.loads(out)["differences"]["exact_match"]
        assert (compared["mean"], compared["better"], compared["worse"]) == (0, 0, 0)

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (["--save", "nowhere/answers.json"], "There is no folder '"),
            (["--report", "."], "'.' is a folder: name a file to write"),
            (["--compare", "squad.json"], "the answer to question 'version' is|the answer to question 'data' is"),
        ],
    )
    @pytest.mark.parametrize("what", ["reader", "pipeline"])
    def test_what_can_not_be_done_in_the_end_is_told_before_anything_is_asked(
        self, squad, monkeypatch, what, arguments, complaint
    ):
        monkeypatch.chdir(squad)
        for asking in ("evaluate_reader", "evaluate_pipeline"):
            monkeypatch.setattr(f"needle.pipelines.evaluate_answers.{asking}", None)
        done = CliRunner().invoke(eval_app, [what, "squad.json", *arguments])
        assert (done.exit_code, done.stdout) == (1, "")
        assert re.search(complaint, done.stderr)

    def test_a_store_and_pairs_without_passages(self, squad):
        (squad / "pairs.csv").write_text("question,answer\nWhen was the lighthouse of Tarn lit?,1842\n")
        out, err = needle("pairs.csv", cwd=squad, what="pipeline", code=1)
        assert "'pairs.csv' has no passages to search: say which store to ask with --store FOLDER" in err
        (squad / "tarn.txt").write_text("The lighthouse of Tarn was lit in 1842.")
        subprocess.run([NEEDLE, "index", "tarn.txt", "--store", "store"], cwd=squad, check=True, capture_output=True)
        out, _ = needle("pairs.csv", "--store", "store", "--json", cwd=squad, what="pipeline")
        assert json.loads(out)["figures"]["exact_match"] == 100.0
