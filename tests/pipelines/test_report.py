"""The report of an evaluation as text: its numbers, its escapes, its policy. What it does in a browser: tests/browser."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace

import html5lib
import pytest

from needle.components.metrics import answer_score
from needle.data.errors import NeedleError
from needle.data.squad import Question
from needle.pipelines.evaluate_answers import Evaluation, Judged, Outcome, Place, evaluate_predictions
from needle.pipelines.report import report_html, write_report
from needle.pipelines.report_numbers import best_threshold, by_answer_words, by_passage_words, by_question_word, changes
from needle.pipelines.report_rows import marked, wrong_rows

PASSAGE = "Apollo 11 landed on the Moon in July 1969."


def place(text: str, passage: str = PASSAGE, source: str = "moon.txt") -> Place:
    start = passage.index(text)
    return Place(passage, start, start + len(text), source)


def judge(id_: str, question: str, answers: list[str], given: str, best: str, score: float, outcome: Outcome) -> Judged:
    starts = tuple(PASSAGE.index(a) for a in answers)
    asked = Question(id_, question, PASSAGE, "Moon", tuple(answers), starts)
    return Judged(
        question=asked,
        prediction=given,
        answers=(best,),
        score=score,
        exact_match=answer_score(given, answers).exact_match,
        f1=answer_score(given, answers).f1,
        outcome=outcome,
        found_rank=2 if answers else None,
        gold=place(answers[0]) if answers else None,
        predicted=place(best),
        seconds=len(question) / 1000,
    )


RIGHT = judge("q1", "What landed?", ["Apollo 11"], "Apollo 11", "Apollo 11", 0.9, Outcome.RIGHT)
WRONG_SPAN = judge("q2", "In which year?", ["1969", "July 1969"], "in July 1969", "in July 1969", 0.6, Outcome.WRONG_SPAN)
ABSTAINED = judge("q3", "Where?", ["the Moon"], "", "the Moon", 0.3, Outcome.ABSTAINED_WRONGLY)
UNANSWERABLE = judge("q4", "How many died?", [], "11", "11", 0.8, Outcome.SHOULD_HAVE_ABSTAINED)


def evaluation(*judged: Judged, name: str = "bm25_qa", settings: dict | None = None) -> Evaluation:
    answerable = sum(not j.question.is_impossible for j in judged)
    return Evaluation(name, {"recall@10": 95.25}, {"asked": len(judged), "found": answerable}, judged, settings or {})


SMALL = evaluation(RIGHT, WRONG_SPAN, ABSTAINED, UNANSWERABLE, settings={"top_k": 10})
#: The same questions; q1 is now wrong and q3 right.
OTHER = evaluation(
    replace(RIGHT, prediction="", exact_match=0.0, f1=0.0, outcome=Outcome.ABSTAINED_WRONGLY),
    WRONG_SPAN,
    replace(ABSTAINED, prediction="the Moon", exact_match=1.0, f1=1.0, outcome=Outcome.RIGHT),
    UNANSWERABLE,
    name="dense_qa",
)


def parsed(page: str):
    """The page's root element; any parse error fails the test."""
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page)


def rows_of(page: str, section: str) -> list[list[str]]:
    table = parsed(page).find(f".//*[@aria-labelledby='{section}']//table")
    return [[" ".join("".join(cell.itertext()).split()) for cell in row] for row in table.iter("tr")]


def data_of(page: str) -> list[dict]:
    return json.loads(parsed(page).find(".//script[@id='rows']").text)


def test_the_summary_has_the_measures_with_their_numbers_of_questions():
    rows = {row[0].split()[0]: row[1:] for row in rows_of(report_html(SMALL), "summary")}
    # q1 all, q2 2/3 x 2: "in July 1969" against "July 1969" has F1 0.8; q3 and q4 nothing.
    assert rows["exact_match"] == ["25.00", "0.00 – 75.00", "4 *"]
    assert rows["f1"][0] == "45.00"
    assert rows["has_answer_f1"][0] == "60.00"
    assert rows["has_answer_f1"][2] == "3 *"
    assert rows["no_answer_f1"] == ["0.00", "0.00 – 0.00", "1 *"]
    assert rows["found"][0] == "100.00"
    # (0.9 - 1)², (0.6 - 0)², (0.3 - 1)², (0.8 - 0)²
    assert rows["brier_score"][0] == "0.3750"
    # four bins of one question each: (0.1 + 0.6 + 0.7 + 0.8) / 4
    assert rows["expected_calibration_error"][0] == "0.5500"


def test_it_shows_settings_other_figures_and_the_slowest_questions():
    page = report_html(SMALL)
    text = " ".join("".join(parsed(page).find("body").itertext()).split())
    assert "4 questions, 3 answered wrongly" in text
    assert "top_k10" in text
    assert "recall@1095.25" in text
    assert "half of them took 0.013 s or less" in text
    assert rows_of(page, "slowest")[1:3] == [
        ["In which year?", "0.014", "wrong span"],
        ["How many died?", "0.014", "should have abstained"],
    ]


def test_the_best_threshold_is_on_the_score():
    assert best_threshold(SMALL.judged) == pytest.approx((0.3, 70))  # all are answered: 1, 0.8, 1 and 0
    assert "score is at least 0.300 would give an F1 of 70.00" in report_html(SMALL)
    hopeless = evaluation(UNANSWERABLE)
    assert "answering nothing would give an F1 of 100.00" in report_html(hopeless)


def test_groups():
    assert [(m.name, m.n) for m in by_question_word(SMALL.judged)] == [
        ("what", 1),
        ("which", 1),
        ("where", 1),
        ("how many", 1),
    ]
    assert [(m.name, round(m.estimate.mean), m.n) for m in by_answer_words(SMALL.judged)] == [("1", 80, 1), ("2", 50, 2)]
    assert [(m.name, round(m.estimate.mean), m.n) for m in by_passage_words(SMALL.judged)] == [("1–49", 45, 4)]


@pytest.mark.parametrize(("words", "name"), [(3, "3"), (4, "4–5"), (5, "4–5"), (10, "6–10"), (11, "11+"), (99, "11+")])
def test_groups_of_lengths(words, name):
    question = replace(RIGHT.question, answers=("word " * words,))
    assert [m.name for m in by_answer_words([replace(RIGHT, question=question)])] == [name]


@pytest.mark.parametrize(
    ("question", "word"),
    [
        ("Whose flag is it?", "who"),
        ("By whom?", "who"),
        ("How much is it?", "how much"),
        ("Show how", "how"),
        ("Name it!", "other"),
    ],
)
def test_question_words(question, word):
    judged = replace(RIGHT, question=replace(RIGHT.question, question=question))
    assert [m.name for m in by_question_word([judged])] == [word]


def test_every_plot_has_its_numbers_and_few_questions_are_marked():
    page = parsed(report_html(SMALL))
    figures = {figure.get("id"): figure for figure in page.iter("figure")}
    assert list(figures) == [
        "funnel",
        "reliability",
        "abstention",
        "scores",
        "by-word",
        "by-answer",
        "by-passage",
    ]
    numbers = {
        id_: [["".join(cell.itertext()) for cell in row] for row in figure.iter("tr")] for id_, figure in figures.items()
    }
    assert numbers["funnel"][1:] == [
        ["asked", "4", "100.0 %"],
        ["found", "3", "75.0 %"],
        ["right", "1", "25.0 %"],
        ["wrong span", "1", "25.0 %"],
        ["retriever missed", "0", "0.0 %"],
        ["abstained wrongly", "1", "25.0 %"],
        ["should have abstained", "1", "25.0 %"],
    ]
    assert numbers["reliability"][1:] == [
        ["0.300", "1.000", "1 *"],
        ["0.600", "0.000", "1 *"],
        ["0.800", "0.000", "1 *"],
        ["0.900", "1.000", "1 *"],
    ]
    # From 0.6 on q1, q4 and q2 are answered: F1 of 1, 0 and 0.8.
    assert ["0.6", "0.750", "0.600", "0.600"] in numbers["abstention"]
    assert ["0.30–0.35", "1", "0", "0"] in numbers["scores"]
    assert ["where", "0.00", "0.00 – 0.00", "1 *"] in numbers["by-word"]


def test_differences():
    found = {change.name: change for change in changes(SMALL, evaluation(*OTHER.judged[:3]))}
    f1 = found["f1"]
    assert (f1.ours, f1.theirs, f1.difference.mean) == pytest.approx((60, 60, 0))
    assert (f1.higher, f1.lower, f1.n) == (1, 1, 3)  # q4 is only in one of them
    assert "no_answer_f1" not in found
    rows = rows_of(report_html(SMALL, OTHER), "differences")
    assert rows[1] == ["exact_match", "25.00", "25.00", "+0.00", "-75.00 … +75.00", "1.000", "1", "1", "4 *"]
    assert "no question in common" in report_html(SMALL, evaluation(replace(RIGHT, question=Question("x", "?", "", ""))))


def test_rows_of_wrong_answers():
    rows = wrong_rows(SMALL, None)
    assert [(row["id"], row["cause"]) for row in rows] == [
        ("q2", "wrong span"),
        ("q3", "abstained wrongly"),
        ("q4", "should have abstained"),
    ]
    assert "other" not in rows[0]
    assert rows[0]["right"] == ["1969", "July 1969"]
    [passage] = rows[0]["passages"]
    assert passage["of"] == ["gold", "predicted"]
    assert passage["parts"] == [
        ["", "Apollo 11 landed on the Moon "],
        ["predicted", "in July "],
        ["gold predicted", "1969"],
        ["", "."],
    ]


def test_rows_of_a_comparison():
    rows = {row["id"]: row for row in wrong_rows(SMALL, OTHER)}
    assert rows["q1"]["cause"] == "fixed"
    assert {id_: row["other"]["differs"] for id_, row in rows.items()} == {"q1": True, "q2": False, "q3": True, "q4": False}
    assert rows["q3"]["other"] == {"given": "the Moon", "cause": "right", "differs": True}


def test_of_saved_answers_nothing_is_said_that_is_not_known_of_them():
    saved = evaluate_predictions("saved", [j.question for j in SMALL.judged], {"q1": "Moon", "q2": "1969", "q3": ""})
    assert [change.name for change in changes(SMALL, saved)] == [
        "exact_match",
        "f1",
        "has_answer_exact_match",
        "has_answer_f1",
        "no_answer_f1",
    ]
    others = {row["id"]: row["other"] for row in wrong_rows(SMALL, saved)}
    assert others == {
        "q1": {"given": "Moon", "cause": "wrong", "differs": True},
        "q2": {"given": "1969", "cause": "right", "differs": True},
        "q3": {"given": "", "cause": "wrong", "differs": False},
        "q4": {"given": "", "cause": "right", "differs": True},
    }
    curves = parsed(report_html(SMALL, saved)).findall(".//figure[@id='abstention']//{*}text")
    assert "compared" not in [text.text for text in curves]


def test_two_passages_are_shown_where_the_answer_is_in_one_and_the_best_text_in_another():
    elsewhere = replace(WRONG_SPAN, predicted=Place("Nothing happened in 1970.", None, None, "else.txt"))
    [row] = wrong_rows(evaluation(elsewhere), None)
    assert [(p["of"], p["source"]) for p in row["passages"]] == [(["gold"], "moon.txt"), (["predicted"], "else.txt")]
    assert row["passages"][1]["parts"] == [["", "Nothing happened in 1970."]]


def test_a_long_passage_is_cut_around_its_spans_between_words():
    passage = "word " * 400 + "GOLD " + "word " * 400 + "FOUND " + "word " * 400
    parts = marked(passage, {"gold": (2000, 2004), "predicted": (4005, 4010)})
    kinds = [kind for kind, _ in parts]
    assert kinds == ["gap", "", "gold", "", "gap", "", "predicted", "", "gap"]
    assert [text for kind, text in parts if kind and kind != "gap"] == ["GOLD", "FOUND"]
    assert 560 < sum(len(text) for _, text in parts) < 700
    assert all(text.strip().startswith("word") and text.strip().endswith("word") for kind, text in parts if not kind)


def test_a_long_passage_without_spans_and_a_very_long_span_are_cut():
    assert [(kind, len(text)) for kind, text in marked("x" * 9000, {})] == [("", 600), ("gap", 0)]
    assert [(kind, len(text)) for kind, text in marked("x" * 9000, {"gold": (0, 9000)})] == [("gold", 660), ("gap", 0)]


@pytest.mark.parametrize("spans", [{}, {"gold": (0, 5)}, {"gold": (3, 9), "predicted": (5, 42)}, {"gold": (42, 42)}])
def test_the_parts_of_a_short_passage_are_the_passage(spans):
    assert "".join(text for _, text in marked(PASSAGE, spans)) == PASSAGE


HOSTILE = "</script><script>alert(1)</script><!--<img src=x onerror=alert(1)>&amp;'\"{{ 7*7 }}$x^2$\u2028\u2029"


def hostile() -> Evaluation:
    passage = f"Before {HOSTILE} after"
    question = Question(HOSTILE, HOSTILE, passage, HOSTILE, (HOSTILE,), (7,))
    spot = Place(passage, 7, 7 + len(HOSTILE), HOSTILE)
    judged = Judged(question, HOSTILE, (HOSTILE,), 0.5, 0.0, 0.0, Outcome.WRONG_SPAN, None, spot, spot, 1.0)
    return Evaluation(HOSTILE, {HOSTILE: 1.0}, {"<b>$x^2$</b>": 1}, (judged,), {HOSTILE: HOSTILE})


def test_whatever_documents_hold_is_text():
    page = report_html(hostile(), replace(hostile(), name=f"{HOSTILE} 2"))
    root = parsed(page)
    assert [script.get("type") for script in root.iter("script")] == ["application/json", None]
    assert list(root.iter("img")) == []
    assert "<script>alert" not in page
    [row] = data_of(page)
    assert row["question"] == row["given"] == row["right"][0] == HOSTILE
    assert row["passages"][0]["parts"] == [["", "Before "], ["gold predicted", HOSTILE], ["", " after"]]
    assert root.find(".//h1").text == HOSTILE
    assert "<b>$x^2$</b>" in [text.text for text in root.findall(".//figure[@id='funnel']//{*}text")]


def test_the_page_can_load_and_run_nothing_but_its_own_style_and_script():
    page = report_html(hostile())
    root = parsed(page)
    policy = root.find(".//meta[@http-equiv='Content-Security-Policy']").get("content")
    style, script = root.find(".//style").text, root.findall(".//script")[1].text
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )
    for element in root.iter():
        for name, value in element.attrib.items():
            assert name != "style"
            assert not name.startswith("on")
            assert name not in ("src", "srcset", "action")
            assert name != "href" or value.startswith("#")
    assert not re.search(r"@import|url\((?!#)", style)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))


def test_texts_that_html_may_not_hold_or_utf_8_not_write(tmp_path):
    odd = replace(RIGHT, question=replace(RIGHT.question, question="a\x00b\ud800c\x1bd\uffff"), outcome=Outcome.WRONG_SPAN)
    write_report(tmp_path / "report.html", evaluation(odd, name="\x07\udfff"))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert rows_of(page, "slowest")[1][0] == "a\ufffdb\ufffdc\ufffdd\ufffd"
    assert data_of(page)[0]["question"] == odd.question.question


def test_it_is_the_same_page_in_every_call():
    assert report_html(SMALL, OTHER) == report_html(SMALL, OTHER)


@pytest.mark.parametrize(
    "odd",
    [
        evaluation(UNANSWERABLE),
        evaluation(replace(ABSTAINED, answers=(), score=0.0, gold=None, predicted=None, seconds=None)),
        evaluation(
            replace(UNANSWERABLE, answers=(), prediction="", score=0.0, f1=1.0, exact_match=1.0, outcome=Outcome.RIGHT)
        ),
        evaluation(replace(RIGHT, question=replace(RIGHT.question, context="", answers=("",)))),
    ],
    ids=["only unanswerable", "nothing found", "rightly nothing found", "without a passage"],
)
def test_what_there_is_nothing_of_is_left_out(odd):
    parsed(report_html(odd))
    parsed(report_html(odd, odd))
    parsed(report_html(SMALL, odd))


def test_of_no_question_there_is_no_report():
    with pytest.raises(NeedleError, match="nothing to report of 'bm25_qa': no question was asked"):
        report_html(evaluation())


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(NeedleError, match=r"The report can't be written to '.*missing/report\.html'"):
        write_report(tmp_path / "missing" / "report.html", SMALL)


def test_without_the_extra_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "needle.pipelines.report_plots", None)
    with pytest.raises(NeedleError, match=r"pip install needle-qa\[report\]"):
        report_html(SMALL)


def test_importing_it_does_not_import_what_draws():
    code = "import sys, needle.pipelines.report; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
