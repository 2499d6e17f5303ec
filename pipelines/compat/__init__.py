"""What is gone in Transformers 5 and Haystack 3, under its old names: change the import line, and it works again.

```python
from needle.pipelines.compat import pipeline                          # was: from transformers import pipeline
from needle.pipelines.compat import FARMReader, TransformersReader    # was: from haystack.nodes import ...
from needle.pipelines.compat import ExtractiveReader                  # was: from haystack.components.readers import ...
```

Scores are those of the old formulas, so that thresholds keep their meaning; what was wrong in the old readers and is right
here stands in the docstring of each. For new work `needle.components.reader.MiniLMReader` is the better reader.
"""

from needle.components.extractive_reader import ExtractiveReader, TransformersExtractiveReader
from needle.pipelines.compat.answers import Answer
from needle.pipelines.compat.farm import FARMReader
from needle.pipelines.compat.question_answering import QuestionAnsweringPipeline, pipeline
from needle.pipelines.compat.squad_examples import SquadExample
from needle.pipelines.compat.transformers_reader import TransformersReader

__all__ = [
    "Answer",
    "ExtractiveReader",
    "FARMReader",
    "QuestionAnsweringPipeline",
    "SquadExample",
    "TransformersExtractiveReader",
    "TransformersReader",
    "pipeline",
]
