"""The published OpenAPI is what the server does: schemathesis tries it, with all its checks."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 10
#: 504 is what a request may ask for, by `deadline_s`.
CONFIGURATION = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "504"]
"""


@pytest.mark.parametrize("tokens", [False, True])
def test_schemathesis_finds_nothing(tmp_path, corpus_store, serving, tokens):
    store, options, token = tmp_path / "store", [], ""
    shutil.copytree(corpus_store, store)
    if tokens:
        from needle.pipelines.server.auth import Scope, TokenFile

        file = tmp_path / "tokens.json"
        token, options = TokenFile(file).add("schemathesis", Scope.WRITE), ["--tokens", str(file)]
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    with serving(store, *options) as server:
        command = [
            str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(tmp_path / "schemathesis.toml"),
            "run", f"{server.url}/openapi.json", "--checks", "all", "--max-time", str(SECONDS if not tokens else 4),
            "--continue-on-failure", "--workers", "2",
            *(["--header", f"Authorization: Bearer {token}"] if tokens else []),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=180)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert not [line for line in server.log() if line["level"] == "error"]
