"""The `needle` command as users run it: real processes, their output piped."""

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from needle.components.embedder import DEFAULT_EMBEDDER, _source
from needle.data.errors import PipelineError
from needle.pipelines.cli import app
from needle.pipelines.loading import DEFINITIONS, load_pipeline

NEEDLE = Path(sys.executable).with_name("needle.exe" if os.name == "nt" else "needle")
TARN = "The lighthouse of Tarn was lit in 1842. Its keeper was Ezra Whitcombe."
KEEPER = "Who was the keeper of the lighthouse?"
LIT = "When was the lighthouse lit?"
OPERA = "Who wrote the opera about the lighthouse?"
QUILL = "The quill [bold]of[/bold] Orm :heart: was \x1b[31mred\x1b[0m. It was cut by Ada Pell."

pytestmark = pytest.mark.skipif(not NEEDLE.exists(), reason="the needle command is not installed beside this Python")


def needle(*arguments: str | Path, stdin: str | bytes = b"", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    data = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run([NEEDLE, *arguments], input=data, capture_output=True, cwd=cwd, timeout=60, check=False)
    out, err = done.stdout.decode(), done.stderr.decode()
    for text in (out, err):
        assert "\x1b" not in text  # no colours, no cursor movement
        assert "Traceback" not in text
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


def refused(*arguments: str | Path, code: int = 1, stdin: str | bytes = b"", cwd: Path | None = None) -> str:
    """What a command says that can't be carried out; in this process, since starting many takes minutes."""
    with chdir(cwd or Path.cwd()):
        done = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    assert (done.exit_code, done.stdout) == (code, "")
    assert "\x1b" not in done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A store and what was indexed into it; tests only read these."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "docs").mkdir()
    (folder / "docs" / "tarn.txt").write_text(TARN)
    (folder / "docs" / "quill.txt").write_text(QUILL)
    (folder / "docs" / "empty.txt").touch()
    done = needle("index", "docs", "--store", "store", cwd=folder)
    assert done.returncode == 3
    assert done.stdout == "2 files indexed (2 passages), 0 unchanged, 1 skipped\n"
    assert done.stderr == f"skipped {folder.resolve() / 'docs' / 'empty.txt'}: the file is empty\n"
    return folder


@pytest.fixture(scope="module")
def store(folder) -> Path:
    return folder / "store"


@pytest.fixture(scope="module")
def embedded(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dense")
    (folder / "tarn.txt").write_text(TARN)
    done = needle("index", "tarn.txt", "--store", "store", "--retriever", "hybrid", cwd=folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 file indexed (1 passage), 0 unchanged, 0 skipped\n", "")
    return folder


class TestRetrievers:
    @pytest.mark.parametrize("retriever", ["dense", "hybrid"])
    def test_asking_by_vectors(self, embedded, retriever):
        question = "Which person looked after it?"  # BM25 finds nothing: no word of it is in the passage
        done = needle("ask", question, "--store", "store", "--retriever", retriever, "--json", cwd=embedded)
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["answers"][0]["answer"] == "Ezra Whitcombe"
        assert json.loads(needle("ask", question, "--store", "store", "--json", cwd=embedded).stdout)["answers"] == []

    def test_the_embedding_model_is_named_and_can_be_changed(self, embedded):
        status = json.loads(needle("status", "--store", "store", "--json", cwd=embedded).stdout)
        assert status["embedder"] == DEFAULT_EMBEDDER
        shutil.copytree(_source(DEFAULT_EMBEDDER), embedded / "model", dirs_exist_ok=True)
        prompts = {"prompts": {"query": "query: ", "document": ""}}
        (embedded / "model" / "config_sentence_transformers.json").write_text(json.dumps(prompts))
        told = refused("ask", KEEPER, "--store", "store", "--retriever", "dense", "--embedder", "model", cwd=embedded)
        assert "needle index --re-embed --embedder '" in told
        done = needle("index", "--re-embed", "--embedder", "model", "--store", "store", cwd=embedded)
        model = (embedded / "model").resolve()
        assert (done.returncode, done.stdout.splitlines()[1]) == (0, f"1 passage embedded anew by {model}"), done.stderr
        # By its whole path, since it may be asked from anywhere.
        assert json.loads(needle("status", "--store", "store", "--json", cwd=embedded).stdout)["embedder"] == str(model)

    def test_what_does_not_go_together(self, store):
        told = refused("ask", KEEPER, "--store", store, "--retriever", "dense", "--pipeline", "bm25_qa")
        assert "either by --retriever or by --pipeline" in told
        assert "'vectors' is not one of" in refused("ask", KEEPER, "--store", store, "--retriever", "vectors", code=2)
        assert "embeds nothing" in refused("ask", KEEPER, "--store", store, "--embedder", "some/model")
        assert "nothing to embed anew" in refused("index", "--re-embed", "--retriever", "bm25", "--store", store)
        assert "There is no store in 'nowhere'" in refused("index", "--re-embed", "--store", "nowhere")


class TestIndex:
    def test_files_are_kept_replaced_listed_and_removed(self, tmp_path):
        file = tmp_path / "tarn.txt"
        file.write_text(TARN)
        index = ("index", ".", "--store", "store")  # the store lies in the folder, and is not taken for documents
        assert needle("index", "tarn.txt", "-", "--store", "store", stdin="Words.", cwd=tmp_path).stdout == (
            "2 files indexed (2 passages), 0 unchanged, 0 skipped\n"
        )
        again = needle(*index, cwd=tmp_path)
        assert (again.returncode, again.stderr) == (0, "")
        assert again.stdout == "0 files indexed (0 passages), 1 unchanged, 0 skipped\n"

        file.write_text(TARN.replace("1842", "1843"))
        assert needle(*index, cwd=tmp_path).stdout == "1 file indexed (1 passage), 0 unchanged, 0 skipped\n"
        status = json.loads(needle("status", "--store", "store", "--json", cwd=tmp_path).stdout)
        assert status["files"] == {str(file.resolve()): 1, "stdin": 1}
        assert status["passages"] == status["passages_with_tokens"] == 2
        assert "1843" in needle("ask", LIT, "--store", "store", cwd=tmp_path).stdout

        file.unlink()
        assert needle("remove", "tarn.txt", "--store", "store", cwd=tmp_path).stdout == "removed 1 file: tarn.txt\n"
        assert "needle status lists them" in refused("remove", "tarn.txt", "--store", "store", cwd=tmp_path)
        lines = needle("status", "--store", "store", cwd=tmp_path).stdout.splitlines()
        assert [line.split() for line in lines[:3]] == [
            ["files", "1"],
            ["passages", "1"],
            ["passages", "with", "tokens", "1"],
        ]
        assert lines[-1].split() == ["1", "passage", "stdin"]

    def test_one_bad_file_does_not_end_the_job(self, tmp_path):
        (tmp_path / "docs").mkdir()
        files = {
            "a.txt": TARN.encode(),
            "nest.json": b'{"text": "One.", "x": ' + b"[" * 600 + b"]" * 600 + b"}",
            "number.json": b'{"text": "One.", "x": 1e999}',
            "page.json": b'{"text": "One.", "page_number": "iv"}',
            "twice.json": b'[{"text": "Same."}, {"text": "Same."}]',
            "\x1b[31mred.pdf": b"no PDF",
        }
        for name, data in files.items():
            (tmp_path / "docs" / name).write_bytes(data)
        done = needle("index", tmp_path / "docs", "--store", tmp_path / "store")
        assert (done.returncode, done.stdout) == (3, "3 files indexed (3 passages), 0 unchanged, 3 skipped\n")
        assert len(done.stderr.splitlines()) == 3  # one line each; what the parsers have to say is not printed

    def test_what_can_not_be_done_is_told(self, tmp_path):
        (tmp_path / "file").write_text(TARN)
        assert "There is no file or folder 'nowhere'" in refused("index", "nowhere", "--store", tmp_path / "new")
        assert not (tmp_path / "new").exists()
        assert "A store is a folder" in refused("index", tmp_path / "file", "--store", tmp_path / "file")
        assert "PATH" in refused("index", "--store", tmp_path / "new", code=2)
        assert "There is no store in 'nowhere'" in refused("status", "--store", "nowhere")
        assert "There is no store in 'nowhere'" in refused("remove", "x", "--store", "nowhere")


class TestAsk:
    def test_answers_come_with_score_source_and_sentence(self, store):
        done = needle("ask", KEEPER, "--store", store)
        assert (done.returncode, done.stderr) == (0, "")
        query, first, context, *_ = done.stdout.splitlines()
        assert query == KEEPER
        assert first.startswith("  1. Ezra Whitcombe  ")
        assert first.endswith("%  tarn.txt")
        assert context == "     Its keeper was **Ezra Whitcombe**."

    def test_questions_come_from_the_command_line_and_a_file(self, store, tmp_path):
        (tmp_path / "questions").write_text(f"\ufeff{LIT}\r\n\n  {OPERA}  \n", encoding="utf-8")
        done = needle("ask", KEEPER, "--questions", tmp_path / "questions", "--store", store, "--json", "--top-k", "1")
        keeper, lit, opera = map(json.loads, done.stdout.splitlines())
        assert [r["query"] for r in (keeper, lit, opera)] == [KEEPER, LIT, OPERA]
        assert [r["is_answered"] for r in (keeper, lit, opera)] == [True, True, False]
        [answer] = lit["answers"]
        start, end = answer["context_offset"]
        assert answer["answer"] == answer["context"][start:end] == "1842"
        [place] = answer["places"]
        assert TARN[place["start_char"] : place["end_char"]] == "1842"
        assert Path(place["file_path"]).name == "tarn.txt"
        assert 0 <= lit["no_answer_score"] < 0.5 < answer["score"] <= 1

    def test_a_file_of_questions_in_another_encoding_is_named(self, store, tmp_path):
        (tmp_path / "questions").write_bytes("Où est Café Müller?".encode("latin-1"))
        done = needle("ask", "--questions", tmp_path / "questions", "--store", store)
        assert (done.returncode, done.stdout) == (1, "")
        assert re.search(r"questions' is not UTF-8 text", done.stderr)

    def test_questions_from_standard_input(self, store):
        done = needle("ask", "--questions", "-", "--store", store, "--top-k", "1", stdin=f"{OPERA}\n{LIT}\n".encode())
        opera, lit = done.stdout.strip().split("\n\n")
        assert opera.splitlines()[0] == OPERA
        assert opera.splitlines()[1].startswith("  No answer was found in the documents (")
        assert lit.splitlines()[1].startswith("  1. 1842  ")

    def test_a_documents_text_is_printed_as_it_is_and_can_not_steer_the_terminal(self, store):
        done = needle("ask", "Who cut the quill?", "What colour was the quill?", "--store", store, "--top-k", "1")
        assert "  1. Ada Pell  " in done.stdout
        assert "[bold]of[/bold] Orm :heart: was" in done.stdout
        as_json = needle("ask", "What colour was the quill?", "--store", store, "--json").stdout
        assert json.loads(as_json)["answers"][0]["context"] in QUILL

    def test_documents_without_a_store(self, folder):
        done = needle("ask", KEEPER, "--docs", "docs/tarn.txt", "--docs", "docs/empty.txt", "--top-k", "1", cwd=folder)
        assert done.returncode == 3
        assert done.stdout.splitlines()[1].startswith("  1. Ezra Whitcombe  ")
        assert done.stderr.endswith("empty.txt: the file is empty\n")

    def test_a_pipeline_of_ones_own(self, store, tmp_path):
        definition = yaml.safe_load((DEFINITIONS / "bm25_qa.yaml").read_text())
        definition["components"]["reader"]["init_parameters"] |= {"top_k": 1, "no_answer": False}
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(definition))
        done = needle("ask", OPERA, "--store", store, "--pipeline", tmp_path / "own.yaml", "--json")
        result = json.loads(done.stdout)
        assert result["is_answered"]
        assert len(result["answers"]) == 1

    def test_what_can_not_be_asked_is_told(self, store, tmp_path):
        assert "There is no question" in refused("ask", "--store", store)
        assert "not blank" in refused("ask", " ", "--store", store)
        assert "Ask a shorter question" in refused("ask", "lighthouse " * 600, "--store", store)
        assert "either --store" in refused("ask", KEEPER)
        assert "either --store" in refused("ask", KEEPER, "--store", store, "--docs", ".")
        assert "needle index PATH... --store nowhere" in refused("ask", KEEPER, "--store", "nowhere")
        assert "There is no file or folder 'nowhere'" in refused("ask", KEEPER, "--docs", "nowhere")
        assert "--top-k" in refused("ask", KEEPER, "--store", store, "--top-k", "0", code=2)
        (tmp_path / "file").touch()
        assert "There is no store in" in refused("ask", KEEPER, "--store", tmp_path / "file")

    def test_a_reader_that_can_not_be_had_names_the_shipped_one(self, store):
        message = refused("ask", KEEPER, "--store", store, "--model", "nobody/nothing")
        assert "'nobody/nothing' can't be had from the model hub" in message
        assert "'minilm-squad2'" in message


class TestPipelineFiles:
    def test_a_module_that_is_not_allowed_is_named_with_the_way_to_allow_it(self, store, tmp_path):
        (tmp_path / "bad.yaml").write_text("components: {x: {type: subprocess.Popen, init_parameters: {args: ls}}}")
        message = refused("ask", KEEPER, "--store", store, "--pipeline", tmp_path / "bad.yaml")
        assert "'subprocess'" in message
        assert "HAYSTACK_DESERIALIZATION_ALLOWLIST" in message
        assert "unsafe" not in message

    @pytest.mark.parametrize("call", ["object/apply:os.system ['touch {}']", "object/new:os.mkdir ['{}']", "name:os.system"])
    def test_yaml_can_not_run_code(self, call, store, tmp_path):
        (tmp_path / "bad.yaml").write_text(f"components: !!python/{call.format(tmp_path / 'hacked')}")
        with pytest.raises(PipelineError, match="not valid YAML"):
            load_pipeline(tmp_path / "bad.yaml")
        assert not (tmp_path / "hacked").exists()

    @pytest.mark.parametrize(
        ("content", "complaint"),
        [
            ("just words", "no mapping named 'components'"),
            ("a: [1", "not valid YAML"),
            ("components: {x: 3}", "can't be made"),
            ("components: {x: {type: 3, init_parameters: {}}}", "can't be made"),
            ("components: {x: {type: [a], init_parameters: {}}}", "can't be made"),
            ("components: {x: {init_parameters: 3}}", "can't be made"),
            ("components: &a {x: *a}", "can't be made"),
            ("components: {x: {type: needle.components.passages.PassageSplitter, init_parameters: {length: 0}}}", "length"),
        ],
    )
    def test_other_files_are_refused_with_the_reason(self, content, complaint, tmp_path):
        (tmp_path / "bad.yaml").write_text(content)
        with pytest.raises(PipelineError, match=complaint):
            load_pipeline(tmp_path / "bad.yaml")

    def test_one_that_is_not_there_or_can_not_be_asked(self, store):
        assert "needle's own are: bm25_qa" in refused("ask", KEEPER, "--store", store, "--pipeline", "nowhere.yaml")
        assert "an input 'query'" in refused("ask", KEEPER, "--store", store, "--pipeline", "indexing")


def test_the_default_pipeline_imports_neither_torch_nor_transformers(store):
    program = f"""
import sys
sys.argv = ["needle", "ask", {KEEPER!r}, "--store", {str(store)!r}, "--top-k", "1"]
from needle.pipelines.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
loaded = {{"torch", "transformers", "sentence_transformers"}} & set(sys.modules)
print("ended", sorted(loaded))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert "1. Ezra Whitcombe" in done.stdout, done.stderr
    assert done.stdout.endswith("ended []\n")
