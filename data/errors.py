"""The errors that needle raises on purpose; each message says what was wrong, with what value, and what to do.

```
NeedleError
├── UnreadableFile   a file that no text can be had from (binary, encrypted, broken, empty)
├── StoreError       a store that can't be opened, or was made by a newer needle
├── ModelError       a reader or tokenizer that can't be loaded
├── PipelineError    a pipeline definition that can't be loaded, or can't be asked
└── QueryError       a question that can't be asked (empty, longer than the reader's window); also a ValueError
```
"""


class NeedleError(Exception):
    """Base of all errors that needle raises on purpose."""


class UnreadableFile(NeedleError):
    """A file from which no text can be had; the message names the file and the reason."""


class StoreError(NeedleError):
    """A store that can't be opened or used."""


class ModelError(NeedleError):
    """A reader or tokenizer that can't be loaded."""


class PipelineError(NeedleError):
    """A pipeline definition that can't be loaded, or a pipeline that can't be asked."""


class QueryError(NeedleError, ValueError):
    """A question that can't be asked."""
