"""Every type of file becomes text, and what can't be read is named with the reason while the rest goes on."""

import io
import os
import random
import re
from pathlib import Path

import docx
import pytest
from fpdf import FPDF
from fpdf.enums import EncryptionMethod
from haystack import Document
from haystack.dataclasses import ByteStream

from needle.data.errors import UnreadableFile
from needle.data.files import FileConverter, SourceFile, decode, find_files


def pdf(*pages: str, **encryption) -> bytes:
    file = FPDF()
    file.set_font("helvetica")
    for text in pages:
        file.add_page()
        file.cell(text=text or " ")
    if encryption:
        file.set_encryption(**encryption)
    return bytes(file.output())


def word(*paragraphs: str) -> bytes:
    file, buffer = docx.Document(), io.BytesIO()
    for text in paragraphs:
        file.add_paragraph(text)
    file.save(buffer)
    return buffer.getvalue()


def read(data: bytes | str, name: str = "file.txt") -> list[Document]:
    """The Documents of a file that can be read."""
    data = data.encode() if isinstance(data, str) else data
    outputs = FileConverter().run(sources=[ByteStream(data, meta={"file_path": name})])
    assert outputs["skipped"] == []
    assert outputs["files"] == [SourceFile.of(name, data)]
    assert all(d.meta["file_path"] == name for d in outputs["documents"])
    return outputs["documents"]


def contents(data: bytes | str, name: str = "file.txt") -> list[str]:
    return [d.content for d in read(data, name)]


def reason(data: bytes | str, name: str = "file.txt") -> str:
    """Why a file is skipped."""
    data = data.encode() if isinstance(data, str) else data
    outputs = FileConverter().run(sources=[ByteStream(data, meta={"file_path": name})])
    assert (outputs["documents"], outputs["files"]) == ([], [])
    [skipped] = outputs["skipped"]
    assert skipped.path == name
    assert len(skipped.reason) < 250  # never the file's own bytes
    return skipped.reason


class TestTypes:
    def test_text_is_taken_as_it_is(self):
        assert contents("  One.\r\n\r\nTwo.\t\n") == ["  One.\r\n\r\nTwo.\t\n"]

    def test_an_unknown_suffix_or_none_is_text(self):
        assert contents("Words.", "notes.xyz") == contents("Words.", "README") == ["Words."]

    def test_a_suffix_counts_in_any_case(self):
        assert contents("# Title\n\nSome *words*.", "A.MD") == ["Title\n\nSome words."]

    def test_markdown_loses_its_marks(self):
        assert contents("# Title\n\nA [link](http://x) and *words*.", "a.md") == ["Title\n\nA link and words."]

    def test_html_gives_its_main_text(self):
        page = "<html><head><title>T</title><script>var x;</script></head><body><p>Rome is old.</p></body></html>"
        assert contents(page, "a.html") == contents(page, "a.htm") == ["Rome is old."]
        assert contents("<p>Rome is old.</p>", "a.html") == ["Rome is old."]  # HTML needs no more than this

    def test_pdf_pages_are_parted_by_form_feeds(self):
        assert contents(pdf("Page one.", "Page two."), "a.pdf") == ["Page one.\fPage two."]

    def test_docx_paragraphs_are_lines(self):
        [text] = contents(word("First.", "Second."), "a.docx")
        assert text.split() == ["First.", "Second."]

    def test_a_csv_table_is_one_document_with_a_line_a_row(self):
        assert contents("name,height\nEverest,8849\nK2,\n,8586\n", "a.csv") == [
            "name: Everest; height: 8849.\nname: K2.\nheight: 8586."
        ]

    @pytest.mark.parametrize("delimiter", [",", ";", "\t"])
    def test_a_csv_table_may_be_separated_by_what_spreadsheets_use(self, delimiter):
        table = delimiter.join(["name", "height"]) + "\n" + delimiter.join(["Everest", "8849"])
        assert contents(table, "a.csv") == ["name: Everest; height: 8849."]
        article = delimiter.join(["title", "content"]) + "\n" + delimiter.join(["Tarn", "A lighthouse."])
        assert contents(article, "a.csv") == ["A lighthouse."]

    def test_a_csv_tables_separator_is_what_parts_all_rows(self):
        assert contents("name;height, metres\nEverest;8849\n", "a.csv") == ["name: Everest; height, metres: 8849."]
        assert contents("name,height\nOne; two,3\n", "a.csv") == ["name: One; two; height: 3."]
        assert contents("name;height\nEverest;8849\nK2\n", "a.csv") == ["name: Everest; height: 8849.\nname: K2."]

    def test_no_cell_of_a_ragged_csv_row_is_lost(self):
        assert contents("a,b\n1,2,3,4\n5\n", "a.csv") == ["a: 1; b: 2; 3; 4.\na: 5."]

    @pytest.mark.parametrize("key", ["content", "text"])
    def test_a_csv_content_column_gives_a_document_a_row(self, key):
        one, two = read(f"{key},year\nOne.,1901\n,1902\nTwo.,1903\n", "a.csv")
        assert (one.content, one.meta["year"], two.content, two.meta["year"]) == ("One.", "1901", "Two.", "1903")

    @pytest.mark.parametrize("header", ["id,note", "id,content"])
    def test_a_csv_cell_may_be_huge(self, header):
        [text] = contents(f"{header}\n1,{'word ' * 40_000}\n", "a.csv")
        assert text.count("word") == 40_000

    def test_json_objects_give_documents_with_meta(self):
        [one] = read('{"content": "One.", "year": 1901, "tags": ["a"], "title": "Own title"}', "a.json")
        assert (one.content, one.meta["year"], one.meta["tags"]) == ("One.", 1901, ["a"])
        assert one.meta["title"] == "Own title"
        assert contents('[{"text": "One."}, {"content": "Two."}, {"text": " "}]', "a.json") == ["One.", "Two."]

    def test_json_lines_give_a_document_a_line(self):
        lines = '{"text": "One."}\r\n\n{"text": "Two\u2028lines."}\n'  # U+2028 ends no line of JSON lines
        assert contents(lines, "a.jsonl") == contents(lines, "a.ndjson") == ["One.", "Two\u2028lines."]

    def test_half_a_character_in_json_becomes_a_question_mark(self):
        [one] = read('{"text": "One \\ud800.", "by": "\\udfff"}', "a.json")
        assert (one.content, one.meta["by"]) == ("One ?.", "?")

    def test_the_title_is_the_files_name_and_the_path_is_needles(self):
        [one] = read('{"text": "One.", "file_path": "/etc/passwd"}', "folder/report.json")
        assert one.meta == {"title": "report", "file_path": "folder/report.json"}


class TestEncodings:
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
    def test_unicode_with_or_without_its_mark(self, encoding):
        assert contents("Café, Ωμέγα, 東京 😀".encode(encoding)) == ["Café, Ωμέγα, 東京 😀"]

    def test_utf_16_of_either_order(self):
        assert decode(b"\xfe\xff" + "Café".encode("utf-16-be")) == decode(b"\xff\xfe" + "Café".encode("utf-16-le")) == "Café"

    @pytest.mark.parametrize(
        ("encoding", "text"),
        [
            ("latin-1", "Müller"),
            ("latin-1", "Le café est très bon, déjà vu à la maison."),
            ("cp1252", "He said “hello” – café costs €5."),
            ("cp1250", "Zażółć gęślą jaźń. Warszawa jest stolicą Polski. Wisła płynie przez środek miasta."),
            ("cp1251", "Москва является столицей России."),
            ("koi8_r", "Москва является столицей России. Население около тринадцати миллионов."),
            ("cp1253", "Η Αθήνα είναι η πρωτεύουσα της Ελλάδας."),
            ("shift_jis", "東京は日本の首都です。人口は約千四百万人です。"),
            ("euc_jp", "東京は日本の首都です。人口は約千四百万人です。"),
            ("gb18030", "北京是中国的首都。人口超过两千万。" * 20),
            ("big5", "台北是台灣的首都。人口超過兩百萬。"),
            ("euc_kr", "서울은 대한민국의 수도이다. 인구는 천만 명이다."),
        ],
    )
    def test_older_encodings_are_told_by_their_text(self, encoding, text):
        assert contents(text.encode(encoding)) == [text]

    @pytest.mark.parametrize(
        ("declared", "encoding"), [("iso-8859-2", "iso-8859-2"), ("ISO-8859-1", "cp1252"), ("koi8-u", "koi8-u")]
    )
    def test_html_says_its_encoding_itself(self, declared, encoding):
        text = {"cp1252": "Die „Straße“ – €5.", "koi8-u": "Київ - це їхнє місто."}.get(encoding, "Łódź, žluť.")
        for meta in (f'<meta charset="{declared}">', f"<META http-equiv=x content='text/html; charset={declared}'>"):
            assert contents(f"<html><head>{meta}</head><p>{text}</p></html>".encode(encoding), "a.html") == [text]
        for mistaken in ("utf-8", "nothing-known", declared):  # nothing that was declared is right against UTF-8 itself
            page = f'<html><head><meta charset="{mistaken}"></head><p>{text}</p></html>'
            assert contents(page.encode(), "a.html") == [text]

    def test_other_types_are_decoded_too(self):
        assert contents("# Café".encode("utf-16"), "a.md") == ["Café"]
        assert contents('{"text": "Café"}'.encode("utf-8-sig"), "a.json") == ["Café"]
        assert contents("text\nCafé à la crème".encode("latin-1"), "a.csv") == ["Café à la crème"]
        assert contents("<p>Café à la crème, déjà vu.</p>".encode("latin-1"), "a.html") == ["Café à la crème, déjà vu."]


class TestUnreadable:
    @pytest.mark.parametrize("suffix", ["txt", "pdf", "docx", "csv", "json", "html"])
    def test_empty_and_blank(self, suffix):
        assert reason(b"", f"a.{suffix}") == reason(b" \n\t\f", f"a.{suffix}") == "the file is empty"

    @pytest.mark.parametrize(
        ("name", "data"),
        [
            ("a.txt", b"\xef\xbb\xbf"),
            ("a.md", b"<!-- -->"),
            ("a.html", b"<html><script>alert(1)</script></html>"),
            ("a.csv", b"only,a,header\n"),
            ("a.json", b"[]"),
            ("a.pdf", pdf("")),
            ("a.docx", word()),
        ],
    )
    def test_no_text(self, name, data):
        assert reason(data, name) == "no text was found in it"

    def test_binary(self):
        assert "binary" in reason(b"ab\0cd")
        assert "binary" in reason(random.Random(1).randbytes(3000))

    def test_noise_is_not_taken_for_text(self):
        noise = bytes(random.Random(1).choices(range(1, 256), k=3000))
        assert "encoding" in reason(noise)
        assert "encoding" in reason(b"\xff\xfe" + noise)

    def test_pdf_that_asks_for_a_password(self):
        for method in (EncryptionMethod.RC4, EncryptionMethod.AES_256):
            locked = pdf("Secret.", owner_password="o", user_password="u", encryption_method=method)
            assert reason(locked, "a.pdf") == "it is protected by a password"

    def test_pdf_whose_password_guards_only_changes_is_read(self):
        for method in (EncryptionMethod.RC4, EncryptionMethod.AES_256):
            assert contents(pdf("Open.", owner_password="o", encryption_method=method), "a.pdf") == ["Open."]

    @pytest.mark.parametrize("data", [b"hello", pdf("One.")[:700], pdf("One.")[:-50], b"%PDF-1.7\n\xff\xff\n%%EOF"])
    def test_broken_pdf(self, data):
        assert "not a valid PDF" in reason(data, "a.pdf")

    @pytest.mark.parametrize("data", [b"hello", word("One.")[:3000], b"PK\x03\x04rest"])
    def test_broken_docx(self, data):
        assert "could not be read" in reason(data, "a.docx")

    def test_docx_in_words_container_for_encrypted_files(self):
        assert "password" in reason(b"\xd0\xcf\x11\xe0" + bytes(100), "a.docx")

    def test_broken_json(self):
        assert "not valid JSON" in reason('{"text": ', "a.json")
        assert "line 3 is not valid JSON" in reason('{"text": "One."}\n\n{"text":\n', "a.jsonl")

    @pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
    def test_json_that_nests_deeply(self, name):
        assert "not valid JSON" in reason("[" * 100_000, name)
        assert "100 levels" in reason('{"text": "One.", "x": ' + "[" * 600 + "]" * 600 + "}", name)

    @pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", "9" * 5000])
    def test_json_numbers_that_no_store_can_hold(self, number):
        assert re.search("could not be read|not valid JSON", reason(f'{{"text": "One.", "x": {number}}}', "a.json"))

    def test_json_without_text(self):
        assert (
            reason('[{"text": "One."}, {"body": "Two."}]', "a.json") == "its object 2 has no text under 'content' or 'text'"
        )
        for content in ('"words"', "1", "null", '[["words"]]', '{"text": 1}'):
            assert "has no text under" in reason(content, "a.json")

    def test_the_rest_goes_on_and_nothing_is_printed(self, tmp_path, capfd):
        files = {
            "a.txt": b"First.",
            "b.pdf": b"no pdf",
            "c.docx": b"no docx",
            "d.html": b"<p",
            "e.bin": b"\0",
            "f.json": b"{",
            "g.txt": b"Last.",
        }
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
        outputs = FileConverter().run(sources=[*find_files([tmp_path]), tmp_path / "missing.txt", tmp_path])
        assert [d.content for d in outputs["documents"]] == ["First.", "Last."]
        assert [Path(f.path).name for f in outputs["files"]] == ["a.txt", "g.txt"]
        skipped = {Path(s.path).name: s.reason for s in outputs["skipped"]}
        assert list(skipped) == ["b.pdf", "c.docx", "d.html", "e.bin", "f.json", "missing.txt", tmp_path.name]
        assert skipped["missing.txt"] == "No such file or directory"
        assert skipped[tmp_path.name] == "Is a directory"
        assert capfd.readouterr() == ("", "")

    def test_a_name_that_is_not_unicode(self, tmp_path):
        name = os.fsencode(tmp_path) + b"/caf\xe9.txt"
        try:
            with open(name, "wb") as file:
                file.write(b"Words.")
        except OSError:
            pytest.skip("this file system takes no such names")
        [found] = find_files([tmp_path])
        [skipped] = FileConverter().run(sources=[found])["skipped"]
        assert skipped.reason == "its name is not valid Unicode; rename it"


class TestFindFiles:
    def names(self, *paths) -> list[str]:
        return [file.name for file in find_files(paths)]

    def test_folders_are_searched_to_the_bottom_and_files_sorted(self, tmp_path):
        for name in ("b.txt", "a/d.txt", "a/b/c.txt", ".hidden/x.txt", "a/.hidden.txt"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("x")
        assert self.names(tmp_path) == ["c.txt", "d.txt", "b.txt"]
        assert self.names(tmp_path, tmp_path / "a", tmp_path / "b.txt") == ["c.txt", "d.txt", "b.txt"]
        assert self.names(tmp_path / ".hidden" / "x.txt") == ["x.txt"]  # asked for by name

    def test_links_never_lead_in_circles(self, tmp_path):
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "a.txt").write_text("x")
        (tmp_path / "folder" / "up").symlink_to(tmp_path)
        (tmp_path / "folder" / "self").symlink_to("self")
        (tmp_path / "folder" / "nowhere").symlink_to("nothing")
        assert self.names(tmp_path) == ["a.txt", "nowhere", "self"]  # broken ones are named when they can't be read
        with pytest.raises(UnreadableFile, match="self"):
            find_files([tmp_path / "folder" / "self"])

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
    def test_a_pipe_in_a_folder_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        assert find_files([tmp_path]) == []

    @pytest.mark.parametrize("path", ["", "nothing-here", "x" * 300, "~no-such-user-here/x"])
    def test_what_is_not_there_is_named(self, path, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UnreadableFile, match=f"no file or folder '{path}'"):
            find_files([path])

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
    def test_what_may_not_be_read_is_named(self, tmp_path):
        for name in ("locked/a.txt", "b.txt", "c.txt"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("Words.")
        (tmp_path / "locked").chmod(0)
        (tmp_path / "b.txt").chmod(0)
        try:
            outputs = FileConverter().run(sources=find_files([tmp_path]))
        finally:
            (tmp_path / "locked").chmod(0o700)
        assert [Path(f.path).name for f in outputs["files"]] == ["c.txt"]
        skipped = {Path(s.path).name: s.reason for s in outputs["skipped"]}
        assert skipped == {"b.txt": "Permission denied", "locked": "Permission denied"}
