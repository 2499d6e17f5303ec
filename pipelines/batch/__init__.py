"""Batch work on Ray: very many questions or files, on the cores and GPUs of one machine or of a cluster.

```python
from needle.pipelines import batch

batch.ask("questions.jsonl", "my-index", "answers")  # again after an interruption: goes on with what is missing
batch.index(["handbook/"], "my-index")
```
"""

from needle.pipelines.batch.asking import Report, ask
from needle.pipelines.batch.indexing import index

__all__ = ["Report", "ask", "index"]
