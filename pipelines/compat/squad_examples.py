"""The forms in which Transformers 4's pipeline took questions and contexts -> SquadExamples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import GeneratorType
from typing import Any


@dataclass(frozen=True)
class SquadExample:
    """A question and its context; transformers' own class of this name is taken as well."""

    question_text: str
    context_text: str


def examples_of(args: tuple[Any, ...], named: Mapping[str, Any]) -> list[SquadExample] | Iterator[Any]:
    """A call's arguments -> its examples; a generator is left as it is.

    :param args: (dict), (list of dicts or SquadExamples), (dict, dict, ...), or (question, context), two texts.
    :param named: question and context, each a text or a list of texts; or data (X), the same as a single arg.
    :raises ValueError: if they can't be understood, or a text is empty. KeyError: if a dict lacks one.
    """
    if len(args) == 2 and all(isinstance(one, str) for one in args):
        inputs: Any = [{"question": args[0], "context": args[1]}]
    elif args:
        inputs = args[0] if len(args) == 1 else args
    elif "data" in named or "X" in named:
        inputs = named.get("data", named.get("X"))
    else:
        inputs = _paired(named.get("question"), named.get("context"))
    if isinstance(inputs, GeneratorType):
        return inputs
    if isinstance(inputs, Mapping) or _is_example(inputs):
        inputs = [inputs]
    if isinstance(inputs, str) or not isinstance(inputs, Iterable):
        raise ValueError(f"Ask with question=... and context=..., or with dicts of the two, not with {inputs!r:.100}.")
    return [example(one) for one in inputs]


def example(one: Any) -> SquadExample:
    """:raises ValueError, KeyError: as `examples_of`."""
    if isinstance(one, Mapping):
        if missing := {"question", "context"} - one.keys():
            raise KeyError(f"An example needs the keys 'question' and 'context'; {', '.join(sorted(missing))} is missing.")
        question, context = one["question"], one["context"]
    elif _is_example(one):
        question, context = one.question_text, one.context_text
    else:
        raise ValueError(f"{one!r:.100} must be a dict with 'question' and 'context', or a SquadExample.")
    for name, text in (("question", question), ("context", context)):
        if not isinstance(text, str) or not text:
            raise ValueError(f"`{name}` must be a text that is not empty, not {text!r}.")
    return SquadExample(question, context)


def _is_example(one: Any) -> bool:
    return hasattr(one, "question_text") and hasattr(one, "context_text")


def _paired(question: Any, context: Any) -> list[dict[str, Any]]:
    """One context may stand for several questions."""
    if isinstance(question, str) and isinstance(context, str):
        question = [question]
    if not isinstance(question, list) or not isinstance(context, str | list):
        raise ValueError(
            "question and context must be two texts, a list of questions and a text, or two lists of one length, not "
            f"{question!r:.60} and {context!r:.60}."
        )
    contexts = [context] * len(question) if isinstance(context, str) else context
    if len(question) != len(contexts):
        raise ValueError(f"Questions and contexts don't have the same lengths: {len(question)} and {len(contexts)}.")
    return [{"question": q, "context": c} for q, c in zip(question, contexts, strict=True)]
