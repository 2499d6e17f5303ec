"""A file is there whole, or as it was before."""

import os

import pytest

from needle.data.whole_files import replace_file


def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(tmp_path):
    file = tmp_path / "file"
    file.write_text("before")

    def half(path):
        path.write_text("ha")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_file(file, half)
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(os.name != "posix", reason="this system has other permissions")
def test_who_may_read_it_is_for_the_umask_and_the_caller_to_say_not_for_what_writes(tmp_path):
    def owners_alone(path):
        path.write_text("text")
        path.chmod(0o600)

    before = os.umask(0o022)
    try:
        replace_file(tmp_path / "shared", owners_alone)
        replace_file(tmp_path / "secret", lambda path: path.write_text("text"), mode=0o600)
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("shared", "secret")] == [0o644, 0o600]
