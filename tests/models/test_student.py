"""A student's scores by hand, and its file in the hands of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

import small
from checkout import REPOSITORY
from groupmates.artefacts.store import Provenance, write_folder_provenance
from groupmates.models.student import Student
from groupmates.models.tokenizer import document_tokens, load_tokenizer


def test_scores_are_means_over_the_first_tokens_and_embeddings_have_unit_length():
    influence_V = np.array([1.0, 2.0, 6.0], np.float32)
    emb_VD = np.array([[3.0, 0.0], [0.0, 4.0], [8.0, 8.0]], np.float32)
    student = Student(influence_V, emb_VD, window_tokens=4)
    influence, emb = student.score([np.array([0, 0, 0, 1, 2, 2]), np.array([1])])
    np.testing.assert_allclose(influence, [5 / 4, 2])
    length = np.hypot(9 / 4, 4 / 4)
    np.testing.assert_allclose(emb, [[9 / 4 / length, 1 / length], [0, 1]], rtol=1e-6)


def test_other_documents_beside_it_change_no_bit_of_a_documents_score():
    random = np.random.default_rng(0)
    vectors = random.normal(size=(50, 8)).astype(np.float32)
    student = Student(vectors[:, 0], vectors[:, 1:], window_tokens=30)
    sequences = [random.integers(0, 50, n) for n in random.integers(1, 60, 20)]
    together = student.score(sequences)
    for i, sequence in enumerate(sequences):
        for all_N, alone in zip(together, student.score([sequence]), strict=True):
            np.testing.assert_array_equal(all_N[i], alone[0])


def test_its_file_says_the_same_without_this_package(small_run: small.Run, tmp_path: Path):
    """By the lines of docs/artefacts.md, and the tokenizer beside the file."""
    tokenizer = load_tokenizer(small_run.tokenizer)
    vectors = np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32)
    student = Student(vectors[:, 0], vectors[:, 1:], window_tokens=9)
    student.save(tmp_path, end_of_text=tokenizer.eos_token_id, special_tokens_in_text=False)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    write_folder_provenance(tmp_path, "student", Provenance("test", {}))
    texts = [d["text"] for d in small.documents(5)] + ["two <|endoftext|> words"]
    expected = Student.load(tmp_path).score(document_tokens(tokenizer, texts))

    lines = (REPOSITORY / "workflow/docs/artefacts.md").read_text().split("```python\n")[1]
    code = lines.split("```")[0].replace("results/mine/distil/final", str(tmp_path))
    how = json.loads((tmp_path / "student.json").read_text())
    read = Tokenizer.from_file(str(tmp_path / "tokenizer/tokenizer.json"))
    read.encode_special_tokens = not how["special_tokens_in_text"]
    for i, text in enumerate(texts):
        ids = [*read.encode(text, add_special_tokens=False).ids, how["end_of_text"]]
        found: dict[str, Any] = {"ids": ids[: how["window_tokens"]]}
        exec(code, found)
        np.testing.assert_allclose(found["influence"], expected[0][i], atol=1e-5)
        np.testing.assert_allclose(found["embedding"], expected[1][i], atol=1e-5)
