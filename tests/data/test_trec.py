"""TREC's formats: what their files say, and what is said of those that are not right."""

import gzip

import pytest
from haystack import Document

from needle.data.errors import NeedleError, UnreadableFile
from needle.data.trec import read_documents, read_qrels, read_run, read_topics, write_run

DOCUMENTS = """<doc>
<docno>1</docno>
<title>wings in a
slipstream .</title>
<author>brenckman,m.</author>
<text>wings in a
slipstream .
  an experimental study .</text>
</doc>
<DOC>
<DOCNO> FT-2 </DOCNO>
<TITLE>AT&amp;T & the sea</TITLE>
<TEXT>
<P>Where a < b,</P> it's calm.
</TEXT>
<TEXT>More.</TEXT>
</DOC>
<doc><docno>3</docno><title></title><text>
</text></doc>
"""
BOMB = '<!DOCTYPE d [<!ENTITY a "ha"><!ENTITY b "&a;&a;"><!ENTITY c SYSTEM "file:///etc/passwd">]>'


class TestDocuments:
    @pytest.mark.parametrize("pack", [lambda data: data, gzip.compress], ids=["plain", "gz"])
    def test_content_is_title_and_text_with_the_title_once(self, tmp_path, pack):
        (tmp_path / "docs").write_bytes(pack(DOCUMENTS.encode()))
        assert read_documents(tmp_path / "docs") == [
            Document(
                id="1",
                content="wings in a\nslipstream .\n  an experimental study .",
                meta={"title": "wings in a slipstream ."},
            ),
            Document(
                id="FT-2",
                content="AT&T & the sea\nWhere a < b,  it's calm.\nMore.",
                meta={"title": "AT&T & the sea"},
            ),
            Document(id="3", content="", meta={"title": ""}),
        ]

    def test_a_folder_is_read_file_by_file(self, tmp_path):
        (tmp_path / "b").write_text("<doc><docno>2</docno><text>two</text></doc>")
        (tmp_path / "a").write_text("<doc><docno>1</docno><text>one</text></doc>")
        assert [document.id for document in read_documents(tmp_path)] == ["1", "2"]

    def test_entities_are_not_expanded(self, tmp_path):
        (tmp_path / "docs").write_text(f"{BOMB}<doc><docno>1</docno><text>&a; &b; &c;</text></doc>")
        assert read_documents(tmp_path / "docs")[0].content == "&a; &b; &c;"


class TestTopics:
    def test_num_and_title(self, tmp_path):
        (tmp_path / "topics").write_text(
            "<?xml version='1.0'?>\n<xml><top><num> 4</num>\n<title>\nheat\nconduction ?\n</title></top></xml>"
        )
        assert read_topics(tmp_path / "topics") == {"4": "heat conduction ?"}

    def test_trecs_own_leave_tags_open(self, tmp_path):
        (tmp_path / "topics").write_text(
            "<top>\n<num> Number: 301\n<title> Organized Crime\n\n<desc> Description:\nIdentify.\n</top>"
        )
        assert read_topics(tmp_path / "topics") == {"301": "Organized Crime"}


class TestQrels:
    def test_lines_of_topic_0_docno_grade(self, tmp_path):
        (tmp_path / "qrels").write_text("1 0 a 2\n1 0 b 0\n\n2\t0\ta\t-1\r\n")
        assert read_qrels(tmp_path / "qrels") == {"1": {"a": 2, "b": 0}, "2": {"a": -1}}


class TestRuns:
    def test_ranked_as_trec_eval_does_by_score_not_by_line_or_rank(self, tmp_path):
        (tmp_path / "run").write_text("1 Q0 a 1 0.5 me\n1 Q0 c 2 2 me\n1 Q0 b 3 0.5 me\n2 Q0 a 1 -1e3 me\n")
        run = read_run(tmp_path / "run")
        assert run == {"1": {"c": 2.0, "b": 0.5, "a": 0.5}, "2": {"a": -1000.0}}
        assert list(run["1"]) == ["c", "b", "a"]

    def test_written_with_their_scores(self, tmp_path):
        write_run(tmp_path / "run", {"1": {"b": 2.5, "a": 0.125}}, tag="bm25")
        assert (tmp_path / "run").read_text() == "1 Q0 b 1 2.5 bm25\n1 Q0 a 2 0.125 bm25\n"

    @pytest.mark.parametrize("score", [1.0, 2.0, 1.0 - 1e-12, float("nan")])
    def test_written_with_ranks_where_scores_would_not_keep_the_order(self, tmp_path, score):
        write_run(tmp_path / "run", {"1": {"a": 1.0, "b": score}}, tag="bm25")
        assert (tmp_path / "run").read_text() == "1 Q0 a 1 -1 bm25\n1 Q0 b 2 -2 bm25\n"
        assert list(read_run(tmp_path / "run")["1"]) == ["a", "b"]

    def test_where_none_can_be_written(self, tmp_path):
        with pytest.raises(NeedleError, match="can't be written"):
            write_run(tmp_path / "nowhere" / "run", {}, tag="bm25")


@pytest.mark.parametrize(
    ("read", "data", "complaint"),
    [
        (read_documents, None, "no file or folder"),
        (read_documents, b"", "it holds no <doc>"),
        (read_documents, b'{"data": []}', "it holds no <doc>"),
        (read_documents, b"\xff\xfe\xfd", "can't be read as text"),
        (read_documents, b"<doc>\0</doc>", "it is binary"),
        (read_documents, b"\x1f\x8bnot gzip", "can't be read as text"),
        (read_documents, gzip.compress(DOCUMENTS.encode(), mtime=0)[:-9], "can't be read as text"),
        (read_documents, b"\n<doc><text>x</text></doc>", "line 2: the <doc> has no <docno>"),
        (read_documents, b"<doc><docno> </docno></doc>", "no <docno> of one word"),
        (read_documents, b"<doc><docno>a b</docno></doc>", "no <docno> of one word"),
        (read_documents, b"<doc><docno>1</docno>\n<doc><docno>2</docno></doc>", "line 1: the <doc> is not closed"),
        (
            read_documents,
            b"<doc><docno>1</docno></doc>\n<doc><docno>1</docno></doc>",
            "line 2: there is a <docno> '1' before",
        ),
        (read_documents, b"<doc><docno>1</docno><body>x</body></doc>", "no document with a <title> or a <text>"),
        (read_topics, None, "can't be read as text"),
        (read_topics, b"query", "it holds no <top>"),
        (read_topics, b"<top><title>x</title></top>", "line 1: the <top> has no <num>"),
        (read_topics, b"<top><num>1</num><title> </title></top>", "line 1: the <top> has no <title>"),
        (read_topics, 2 * b"<top><num>1</num><title>x</title></top>\n", "line 2: there is a <num> '1' before"),
        (read_qrels, b" \n", "is empty"),
        (read_qrels, b"1 0 a 1\n1 0 b\n", "line 2: '1 0 b' is not of the form 'topic 0 docno grade'"),
        (read_qrels, b"1 0 a yes", "line 1: the grade 'yes'"),
        (read_qrels, 2 * b"1 0 a 1\n", "line 2: document 'a' was judged"),
        (read_run, b"", "is empty"),
        (read_run, b"1 Q0 a 1 2.5", "line 1: '1 Q0 a 1 2.5' is not of the form 'topic Q0 docno rank score tag'"),
        (read_run, b"1 Q0 a 1 nan me", "line 1: the score 'nan'"),
        (read_run, b"1 Q0 a 1 high me", "line 1: the score 'high'"),
        (read_run, 2 * b"1 Q0 a 1 1 me\n", "line 2: document 'a' was ranked"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong_and_where(tmp_path, read, data, complaint):
    file = tmp_path / "bad"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(UnreadableFile, match=complaint) as error:
        read(file)
    assert str(file) in str(error.value)
