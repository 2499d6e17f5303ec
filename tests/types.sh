#!/usr/bin/env bash
# mypy does not follow setuptools' mapping of folders to packages in an editable install: show it the packages as links.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
links=$(mktemp -d)
trap 'rm -rf "$links"' EXIT
mkdir "$links/needle"
for part in data components pipelines; do ln -s "$root/$part" "$links/needle/$part"; done
cd "$links"
"${MYPY:-$root/.venv/bin/mypy}" --config-file "$root/pyproject.toml" --cache-dir "$root/.mypy_cache" -p needle
