#!/usr/bin/env bash
# Makes tests/parity/farm.json.gz anew: what Haystack 1.26's FARMReader and TransformersReader answer with the shipped
# reader's weights. It needs PyPI, and a folder for a virtual environment of 2 GB:
#   tests/parity/farm.sh /tmp/farm
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
folder=${1:?Usage: $0 FOLDER}
mkdir -p "$folder"
if [ ! -x "$folder/venv/bin/python" ]; then
    python3.11 -m venv "$folder/venv"
    "$folder/venv/bin/pip" install --quiet "farm-haystack[inference]==1.26.*" "torch==2.13.0" "transformers==4.46.*"
fi
export HF_HUB_OFFLINE=1 HAYSTACK_TELEMETRY_ENABLED=False
"$root/.venv/bin/python" "$root/tests/parity/make_transformers4_fixture.py" weights "$folder/reader"
"$folder/venv/bin/python" "$root/tests/parity/make_farm_fixture.py" "$folder/reader" "$root/tests/parity/farm.json.gz"
