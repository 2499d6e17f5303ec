"""Text -> token ids and character offsets, and how a model joins a question with a passage."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tokenizers
from numpy.typing import NDArray

from needle.data.errors import ModelError


class Tokens(NamedTuple):
    """A text's tokens, without special ones.

    ids: (n,) int32, the tokenizer's vocabulary ids.
    offsets: (n, 2) int32, half-open character offsets of each token in the text.
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int32]


class PairTemplate(NamedTuple):
    """The special tokens around a question and a passage: `prefix question middle passage suffix`.

    Each part is a list of token ids; `passage_type` is the token type id of the passage and of what follows it, that of all
    before is 0. BERT: [CLS] question [SEP] passage [SEP], 1. RoBERTa: <s> question </s></s> passage </s>, 0.
    """

    prefix: list[int]
    middle: list[int]
    suffix: list[int]
    passage_type: int

    @property
    def n_special(self) -> int:
        return len(self.prefix) + len(self.middle) + len(self.suffix)


class PassageTokenizer:
    """A reader's tokenizer: the `tokenizers` library alone, so that loading it costs no transformers import."""

    def __init__(self, backend: tokenizers.Tokenizer):
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        #: Names the vocabulary and rules; stored tokens are used only by a tokenizer with the same fingerprint.
        self.fingerprint = hashlib.sha256(backend.to_str().encode()).hexdigest()[:16]
        self.pad_id = next((i for t in ("[PAD]", "<pad>") if (i := backend.token_to_id(t)) is not None), 0)
        self.template = self._pair_template()

    @classmethod
    def from_folder(cls, folder: Path) -> PassageTokenizer:
        """Load a model folder's tokenizer: its `tokenizer.json`, or what transformers makes of older files.

        :raises ModelError: if the folder holds no tokenizer that the tokenizers library can run.
        """
        file = folder / "tokenizer.json"
        try:
            if file.is_file():
                return cls(tokenizers.Tokenizer.from_file(str(file)))
            from transformers import AutoTokenizer  # takes seconds to import

            return cls(AutoTokenizer.from_pretrained(folder).backend_tokenizer)
        except Exception as error:  # tokenizers raises bare Exception
            raise ModelError(f"'{folder}' holds no tokenizer that needle can load: {error}") from error

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokenise texts in one batch; the result holds one `Tokens` a text, in order."""
        return [
            Tokens(np.array(e.ids, np.int32), np.array(e.offsets, np.int32).reshape(-1, 2))
            for e in self._backend.encode_batch(list(texts), add_special_tokens=False)
        ]

    def _pair_template(self) -> PairTemplate:
        pair = self._backend.encode("a", "b")
        first, second = pair.sequence_ids.index(0), pair.sequence_ids.index(1)
        first_end = len(pair.ids) - pair.sequence_ids[::-1].index(0)
        second_end = len(pair.ids) - pair.sequence_ids[::-1].index(1)
        return PairTemplate(
            prefix=pair.ids[:first],
            middle=pair.ids[first_end:second],
            suffix=pair.ids[second_end:],
            passage_type=pair.type_ids[second],
        )
