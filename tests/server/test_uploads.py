"""Files of strangers: bombs end the process that reads them, not the server; names are only names."""

import io
import os
import time
import zipfile

import pytest

from needle.data.errors import UnreadableFile
from needle.pipelines.server.sandbox import Sandbox
from needle.pipelines.server.uploads import bare_name

MIB = 2**20


@pytest.fixture(scope="module")
def sandbox():
    """With narrow bounds, so that they are soon met."""
    made = Sandbox(most_bytes=256 * MIB, most_s=5)
    yield made
    made.close()


def docx(*document_xml: bytes, times: int = 1) -> bytes:
    """A Word file; times: how often the second part of its XML stands there."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(
            "[Content_Types].xml",
            '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Default Extension="rels" '
            'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
            '<Override PartName="/word/document.xml" '
            'ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>',
        )
        archive.writestr(
            "_rels/.rels",
            '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r" '
            'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" '
            'Target="word/document.xml"/></Relationships>',
        )
        with archive.open("word/document.xml", "w") as entry:
            for number, part in enumerate(document_xml):
                for _ in range(times if number == 1 else 1):
                    entry.write(part)
    return file.getvalue()


_BEFORE = b'<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body><w:p><w:r><w:t>'
_AFTER = b"</w:t></w:r></w:p></w:body></w:document>"


def zip_bomb(mib: int) -> bytes:
    return docx(_BEFORE, b"0" * MIB, _AFTER, times=mib)


def test_what_it_reads_is_what_the_converter_reads(sandbox):
    [document] = sandbox.convert("uploads/plain.md", b"# Title\n\nText with \xc3\xa9.")
    assert (document.content, document.meta["file_path"]) == ("Title\n\nText with \u00e9.", "uploads/plain.md")
    [document] = sandbox.convert("uploads/word.docx", docx(_BEFORE, b"Words of Word.", _AFTER))
    assert document.content == "Words of Word."
    with pytest.raises(UnreadableFile, match="not valid JSON"):
        sandbox.convert("uploads/a.json", b"{")


def test_a_zip_bomb(sandbox):
    bomb = zip_bomb(600)
    assert len(bomb) < 4 * MIB
    with pytest.raises(UnreadableFile, match=r"memory|could not be read"):
        sandbox.convert("uploads/bomb.docx", bomb)
    assert sandbox.convert("uploads/a.txt", b"The next one is read.")


def test_an_xml_bomb(sandbox):
    lols = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
    bomb = f'<!DOCTYPE d [<!ENTITY l0 "lol">{lols}]>'.encode() + _BEFORE + b"&l9;" + _AFTER
    for name, data in [("bomb.docx", docx(bomb)), ("bomb.html", b"<html>" + bomb + b"</html>")]:
        try:
            found = sandbox.convert(f"uploads/{name}", data)
            assert sum(len(document.content or "") for document in found) < 10_000  # it was not spread out
        except UnreadableFile:
            pass
    assert sandbox.convert("uploads/a.txt", b"The next one is read.")


def test_what_takes_for_ever():
    """A PDF whose one page says the same endlessly."""
    sandbox = Sandbox(most_bytes=2048 * MIB, most_s=1)
    stream = b"BT /F1 12 Tf " + b"(word ) Tj " * 2_000_000 + b"ET"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n" % len(stream) + stream + b"\nendstream",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    pdf, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(pdf))
        pdf += b"%d 0 obj\n" % number + body + b"\nendobj\n"
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    pdf += (
        b"xref\n0 6\n0000000000 65535 f \n" + table + b"trailer << /Root 1 0 R /Size 6 >>\nstartxref\n%d\n%%%%EOF" % len(pdf)
    )
    begun = time.monotonic()
    with pytest.raises(UnreadableFile, match="more than 1 seconds"):
        sandbox.convert("uploads/long.pdf", pdf)
    assert time.monotonic() - begun < 30  # the process had to be started, too
    assert sandbox.convert("uploads/a.txt", b"The next one is read.")
    sandbox.close()


def test_a_bomb_in_an_upload_harms_nobody_else(server):
    files = [("files", ("bomb.docx", zip_bomb(1100))), ("files", ("fine.txt", b"The keeper of Odd Rock was Una Brand."))]
    status = server.wait(server.post("/uploads", files=files))
    assert (status["state"], status["indexed"]) == ("done", ["uploads/fine.txt"])
    assert [skipped["file_path"] for skipped in status["skipped"]] == ["uploads/bomb.docx"]
    assert server.get("/health/ready").status_code == 200


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("report.pdf", "report.pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\x\\notes.md", "notes.md"),
        ("/etc/shadow", "shadow"),
        ("..", "unnamed"),
        (".hidden", "hidden"),
        ("a\0b\n.txt", "ab.txt"),
        ("", "unnamed"),
        (None, "unnamed"),
        ("x" * 300 + ".pdf", "x" * 196 + ".pdf"),
    ],
)
def test_names_are_only_names(given, kept):
    assert bare_name(given) == kept


def test_an_upload_by_a_path_is_known_by_its_name(server):
    status = server.upload("../../../tmp/escape.txt", b"The baker of Little Marl is Olive Penn.")
    assert status["indexed"] == ["uploads/escape.txt"]
    assert not os.path.exists("/tmp/escape.txt")


def test_html_of_a_stranger_stays_text(server):
    hostile = "<script>alert(1)</script> is what the note of Brack Hill says."
    server.post("/documents", json={"documents": [{"id": "hostile", "content": hostile}]})
    response = server.get("/documents/hostile")
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.json()["text"] == hostile
    server.delete("/documents/hostile")
