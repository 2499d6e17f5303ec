"""`needle migrate`: Haystack 1 and 2 pipelines -> Haystack 3 and needle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from needle.data.errors import NeedleError
from needle.pipelines.console import count, err, errors_told, import_haystack_without_torch, out, plain

#: As where files were skipped: done, but not with everything.
_LEFT = 3


def migrate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A pipeline definition (YAML) of Haystack 1 or 2.")],
    folder: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="Where the new definitions go; by default beside FILE.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace definitions that are there already.")] = False,
) -> None:
    """Rewrite a Haystack 1 or 2 pipeline for Haystack 3 and needle, one file a pipeline, and tell what is different.

    What can't be translated is named, here and at the top of the new file; the exit code is then 3.
    """
    with errors_told():
        import_haystack_without_torch()
        from needle.pipelines.migrate import migrate as migrated

        target = file.parent if folder is None else folder
        left = 0
        found = [(one, target / f"{file.stem}-{one.name}.needle.yaml") for one in migrated(file)]
        for one, path in found:  # told before any is written
            if "/" in one.name or "\\" in one.name or one.name.startswith("."):
                raise NeedleError(f"The pipeline '{one.name}' of '{file}' has a name that no file can have; change it.")
            if path.exists() and not force:
                raise NeedleError(f"'{path}' is there already. Replace it with --force, or name another folder with --out.")
        for one, path in found:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(one.text(), encoding="utf-8")
            except OSError as error:
                raise NeedleError(f"'{path}' can't be written: {error}") from error
            out.print(plain(str(path), style="bold"))
            for change in one.changes:
                out.print(plain(f"  {change}"))
            for note in one.left:
                err.print(plain(f"  not translated: {note}", style="yellow"))
            left += len(one.left)
        if left:
            err.print(plain(f"{count(left, 'thing')} could not be translated; see above, or the top of the new files."))
            raise typer.Exit(_LEFT)
