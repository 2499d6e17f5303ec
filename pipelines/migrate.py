"""Haystack 1 and 2 pipeline definitions (YAML) -> Haystack 3 and needle.

```python
for migrated in migrate("pipelines.haystack-pipeline.yml"):
    print(migrated.name, migrated.changes, migrated.left)
    Path(f"{migrated.name}.yaml").write_text(migrated.text())
```
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from haystack import Pipeline
from haystack.core.errors import DeserializationError
from haystack.core.errors import PipelineError as HaystackPipelineError

from needle.data.errors import PipelineError
from needle.pipelines.loading import ALLOWED_MODULES
from needle.pipelines.migrate_haystack1 import migrate_haystack1
from needle.pipelines.migrate_haystack2 import migrate_haystack2

#: No definition that people wrote is longer.
_MOST_BYTES = 2**20


@dataclass(frozen=True)
class Migrated:
    """A pipeline that was migrated.

    definition: Haystack 3's format. changes: what is different now. left: what could not be translated, and so is to be done
    by hand; nothing is missing from the definition that is not named here or in `changes`.
    """

    name: str
    definition: dict[str, Any]
    changes: list[str]
    left: list[str]

    def text(self) -> str:
        """The definition as YAML, `left` in comments above it."""
        notes = [f"# Not translated: {' '.join(note.split())}\n" for note in self.left]
        body: str = yaml.safe_dump(self.definition, sort_keys=False, allow_unicode=True)
        return "".join(notes) + body


def migrate(file: str | Path) -> list[Migrated]:
    """The pipelines of a definition: of Haystack 2 one, of Haystack 1 as many as the file has.

    Nothing that the file names is imported or run, but for Haystack's own components and needle's.

    :raises PipelineError: if it can't be read, holds more than plain YAML, or is no definition of Haystack 1 or 2.
    """
    data = _read(Path(file))
    components = data.get("components")
    if isinstance(components, list) and isinstance(data.get("pipelines"), list):
        found = migrate_haystack1(data)
    elif isinstance(components, dict):
        found = [("pipeline", *migrate_haystack2(data))]
    else:
        raise PipelineError(
            f"'{file}' is no pipeline definition of Haystack 1 (lists named 'components' and 'pipelines') or 2 (a mapping "
            "named 'components')."
        )
    return [Migrated(name, definition, changes, left + _failure(definition)) for name, definition, changes, left in found]


class _PlainLoader(yaml.SafeLoader):
    """YAML without tags that make objects, and without aliases, which can stand for more than memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not taken; write out what they stand for")
        return super().compose_node(parent, index)


def _sequence(loader: _PlainLoader, node: Any) -> list[Any]:
    return list(loader.construct_sequence(node, deep=True))


# Haystack 2 writes tuples so.
_PlainLoader.add_constructor("tag:yaml.org,2002:python/tuple", _sequence)


def _read(file: Path) -> dict[str, Any]:
    try:
        if (size := file.stat().st_size) > _MOST_BYTES:
            raise PipelineError(f"'{file}' has {size:,} bytes; a pipeline definition has at most {_MOST_BYTES:,}.")
        data = yaml.load(file.read_text(encoding="utf-8"), _PlainLoader)
    except OSError as error:
        raise PipelineError(f"'{file}' can't be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise PipelineError(f"'{file}' can't be read as plain YAML: {error}") from error
    if not isinstance(data, dict):
        raise PipelineError(f"'{file}' is no pipeline definition: it holds a {type(data).__name__}, not a mapping.")
    return data


def _failure(definition: dict[str, Any]) -> list[str]:
    """Why the result can't be loaded as it is; nothing if it can."""
    try:
        Pipeline.from_dict(copy.deepcopy(definition), allowed_modules=ALLOWED_MODULES)
    except (DeserializationError, HaystackPipelineError, ImportError, KeyError, TypeError, ValueError) as error:
        return [f"the result can't be loaded yet: {str(error).partition(' If you trust')[0]}"]
    return []
