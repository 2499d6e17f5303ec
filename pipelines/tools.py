"""A QA as tools for Haystack's agents: ask and search.

```python
from haystack.components.agents import Agent

agent = Agent(chat_generator=..., tools=qa_tools(QA.open("my-index")))
```
"""

from __future__ import annotations

from typing import Any

from haystack import component
from haystack.tools import ComponentTool

from needle.pipelines.qa import QA


@component
class Ask:
    """Answers a question from the documents of a QA."""

    def __init__(self, qa: QA):
        self._qa = qa

    @component.output_types(is_answered=bool, no_answer_score=float | None, answers=list[dict[str, Any]])
    def run(self, query: str, top_k: int = 3) -> dict[str, Any]:
        """Answer a question word for word from the documents, or find that they hold no answer.

        :param query: the question, in plain English.
        :param top_k: how many answers at most.
        :returns: `is_answered`, false if "no answer" is likelier, which has the probability `no_answer_score`; `answers`,
            best first, with their probabilities, the sentences around them, and where they stand.
        """
        result = self._qa.ask(query, top_k)
        answers = [
            {"answer": a.data, "score": a.score, "context": a.context, "places": a.meta.get("places", [])}
            for a in result.answers
        ]
        return {"is_answered": result.is_answered, "no_answer_score": result.no_answer_score, "answers": answers}


@component
class Search:
    """Finds passages of a QA's documents."""

    def __init__(self, qa: QA):
        self._qa = qa

    @component.output_types(passages=list[dict[str, Any]])
    def run(self, query: str, top_k: int = 5) -> dict[str, Any]:
        """Find the passages of the documents that match a question, or some words, best.

        :param query: a question or words.
        :param top_k: how many passages at most.
        """
        found = self._qa.search(query, top_k)
        return {"passages": [{"content": d.content, "score": d.score, "meta": d.meta} for d in found]}


def qa_tools(qa: QA) -> list[ComponentTool]:
    """The tools `ask` and `search`."""
    return [ComponentTool(Ask(qa), name="ask"), ComponentTool(Search(qa), name="search")]
