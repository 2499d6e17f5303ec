"""An evaluation -> one HTML file that needs no network: `pip install needle-qa[report]` brings what draws it.

```python
write_report("report.html", evaluate_pipeline(...))
```

The page is pipelines/templates/report.html, with its style and its script. Its policy lets the browser run and load nothing
but those two, whatever the documents hold.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from statistics import median
from typing import Any

from needle.data.errors import NeedleError
from needle.pipelines.evaluate_answers import Evaluation, Outcome
from needle.pipelines.report_numbers import (
    FEW,
    MEASURES,
    best_threshold,
    calibration_error,
    changes,
    means,
    outcomes,
)
from needle.pipelines.report_rows import FIXED, wrong_rows

_TEMPLATES = Path(__file__).with_name("templates")
_SLOWEST = 20
#: What HTML may not hold, or can't be written as UTF-8.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


def write_report(path: str | Path, evaluation: Evaluation, compared: Evaluation | None = None) -> None:
    """:raises NeedleError: if the file can't be written, or the extra `report` is not installed."""
    page = report_html(evaluation, compared)
    try:
        Path(path).write_bytes(page.encode())
    except OSError as error:
        raise NeedleError(f"The report can't be written to '{path}': {error}") from error


def report_html(evaluation: Evaluation, compared: Evaluation | None = None) -> str:
    """The page.

    :param compared: another evaluation of the same questions (those that both have are compared).
    :raises NeedleError: if there is no question, or the extra `report` is not installed.
    """
    judged = evaluation.judged
    if not judged:
        raise NeedleError(f"There is nothing to report of '{evaluation.name}': no question was asked.")
    try:
        # Here: asking does without them.
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup

        from needle.pipelines.report_plots import plots
    except ImportError as error:
        raise NeedleError(f"A report needs `pip install needle-qa[report]`: {error}") from error

    def printable(value: object) -> object:
        return value if isinstance(value, Markup) else _UNPRINTABLE.sub("\ufffd", str(value))

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = ((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    counts = outcomes(judged)
    rows = wrong_rows(evaluation, compared)
    causes = [(cause, counts[cause]) for cause in counts if cause != Outcome.RIGHT.value]
    if compared is not None:
        causes.append((FIXED, sum(row["cause"] == FIXED for row in rows)))
    return environment.get_template("report.html").render(
        evaluation=evaluation,
        compared=compared,
        few=FEW,
        meanings={measure.name: measure.meaning for measure in MEASURES},
        means=means(judged),
        calibration_error=calibration_error(judged),
        threshold=best_threshold(judged),
        seconds=_seconds(evaluation),
        changes=[] if compared is None else changes(evaluation, compared),
        plots=[(plot, Markup(plot.svg)) for plot in plots(evaluation, compared)],
        causes=causes,
        n_wrong=len(judged) - counts[Outcome.RIGHT.value],
        n_differing=sum(row.get("other", {}).get("differs", False) for row in rows),
        rows=rows,
        style=Markup(style),
        style_hash=_hash(style),
        script=Markup(script),
        script_hash=_hash(script),
    )


def _seconds(evaluation: Evaluation) -> dict[str, Any] | None:
    """Of the questions that were timed; None if none was."""
    timed = [(judged.seconds, judged) for judged in evaluation.judged if judged.seconds is not None]
    if not timed:
        return None
    slowest = sorted(timed, key=lambda pair: -pair[0])[:_SLOWEST]
    return {"n": len(timed), "median": median(seconds for seconds, _ in timed), "slowest": slowest}


def _hash(text: str) -> str:
    """As a Content-Security-Policy names what may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
