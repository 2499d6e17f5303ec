"""What flows in, and what needle ships: files and data sets -> Documents; the corpus and the reader's weights."""

import os
import sys
from pathlib import Path

# ONNX Runtime keeps a device id and a queue of events in the user's cache unless told otherwise.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Haystack reports usage unless told otherwise; with needle it does so only when the user asks for it.
if "HAYSTACK_TELEMETRY_ENABLED" not in os.environ:
    os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
    if (_imported_before := sys.modules.get("haystack.telemetry._telemetry")) is not None:
        _imported_before.telemetry = None  # type: ignore[attr-defined]

#: The reader that comes with needle, in the compact form (`needle.components.weights`).
SHIPPED_READER = Path(__file__).parent / "models" / "minilm-squad2"

#: The corpus that comes with needle: `documents/` and `questions.json` (SQuAD 2.0 format).
SHIPPED_CORPUS = Path(__file__).parent / "corpus"
