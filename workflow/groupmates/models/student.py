"""A student of the influence model: means of token vectors, for a pool that no GPU will read.

Legend: N documents, V tokens of the vocabulary, D embedding size. Imports no torch.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_matrix

from groupmates.artefacts.store import intact, read_folder_json

VECTORS, RECORD = "student.safetensors", "student.json"


class Student:
    """Influence and embedding of a document are means over its first `window_tokens` tokens."""

    def __init__(self, influence_V: np.ndarray, emb_VD: np.ndarray, window_tokens: int) -> None:
        self.influence_V, self.emb_VD, self.window_tokens = influence_V, emb_VD, window_tokens
        self.size = emb_VD.shape[1]

    def score(self, sequences: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Individual influence float32 [N] (standardised) and embeddings float32 [N, D], unit length.

        `sequences`: token ids of whole documents, end of text included. Others change no result.
        """
        windows = [sequence[: self.window_tokens] for sequence in sequences]
        frequency_NV = frequencies(windows, len(self.influence_V))
        emb_ND = frequency_NV @ self.emb_VD
        length_N1 = np.linalg.norm(emb_ND, axis=1, keepdims=True)
        return frequency_NV @ self.influence_V, emb_ND / length_N1

    def save(self, folder: Path, **record: int | bool) -> None:
        """Vectors, and a record of how a text is read; the tokenizer belongs beside them."""
        vectors = {"influence": self.influence_V, "embedding": self.emb_VD}
        save_file({name: np.ascontiguousarray(v) for name, v in vectors.items()}, folder / VECTORS)
        body = {"window_tokens": self.window_tokens, **record}
        (folder / RECORD).write_text(json.dumps(body, indent=2, sort_keys=True) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Student:
        """The student of a `student` artefact."""
        record = read_folder_json(folder, "student", RECORD)
        with intact(folder / VECTORS, "token vectors of a student"):
            vectors = load_file(folder / VECTORS)
            return cls(vectors["influence"], vectors["embedding"], record["window_tokens"])


def frequencies(sequences: list[np.ndarray], vocabulary: int) -> csr_matrix:
    """How often each token stands in each sequence, as a share of its tokens: float32 [N, V]."""
    lengths = np.array([len(sequence) for sequence in sequences])
    share = np.repeat((1 / lengths).astype(np.float32), lengths)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    shape = (len(sequences), vocabulary)
    found = csr_matrix((share, np.concatenate(sequences), starts), shape=shape)
    found.sum_duplicates()
    return found
