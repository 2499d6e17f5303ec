#!/usr/bin/env bash
# Makes tests/parity/transformers4.json.gz anew: what the question-answering pipeline of Transformers 4.57, which is gone in
# Transformers 5, answers with the shipped reader's weights. It needs PyPI, and a folder for a virtual environment of 1.5 GB:
#   tests/parity/transformers4.sh /tmp/transformers4
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
folder=${1:?Usage: $0 FOLDER}
mkdir -p "$folder"
if [ ! -x "$folder/venv/bin/python" ]; then
    python3.11 -m venv "$folder/venv"
    "$folder/venv/bin/pip" install --quiet "transformers==4.57.*" "torch==2.13.0" numpy safetensors
fi
make="$root/tests/parity/make_transformers4_fixture.py"
export HF_HUB_OFFLINE=1
"$root/.venv/bin/python" "$make" weights "$folder/reader"
"$folder/venv/bin/python" "$make" answers "$folder/reader" "$root/tests/parity/transformers4.json.gz"
