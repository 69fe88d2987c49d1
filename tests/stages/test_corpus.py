"""The built-in corpus: varied, deterministic, without the reference and without this machine."""

import json
import os
import re
import sysconfig
from collections import Counter
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from groupmates.errors import UserError
from groupmates.pool.documents import read_documents
from groupmates.pool.examples import read_examples
from groupmates.pool.listing import PoolFile
from groupmates.settings.config import Corpus, PoolColumns
from groupmates.settings.per_stage import CorpusSettings
from groupmates.stages import corpus

COLUMNS = PoolColumns(text="text", id="url", source="source")
LONG = "It says what it does and why, so long that it is worth keeping. " * 4 + "The end."


def corpus_settings(documents: int, files: int = 3, seed: int = 0) -> CorpusSettings:
    return CorpusSettings(seed=seed, corpus=Corpus(documents=documents, files=files))


def built(folder: Path, settings: CorpusSettings) -> tuple[list[Path], Path]:
    shards = [folder / f"shard-{i:05d}.jsonl.zst" for i in range(settings.corpus.files)]
    corpus.run(settings, shards=shards, reference=folder / "reference.jsonl.zst")
    return shards, folder / "reference.jsonl.zst"


def documents_in(shard: Path) -> list:
    return list(read_documents(PoolFile(str(shard), shard.name), COLUMNS))


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def module(package: str, number: int) -> str:
    return f'"""Module {number} of {package}. {LONG}"""\n\nVALUE = "{"x" * 300}"\n'


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple[list[Path], Path]:
    return built(tmp_path_factory.mktemp("corpus"), corpus_settings(400))


def test_the_corpus_has_the_wanted_size_dealt_evenly_with_unique_urls(small):
    shards, _ = small
    sizes = [len(documents_in(shard)) for shard in shards]
    assert sum(sizes) == 400
    assert max(sizes) - min(sizes) <= 1
    assert len({d.doc_id for shard in shards for d in documents_in(shard)}) == 400


def test_the_mix_is_varied_and_texts_have_the_right_length(small):
    found = [d for shard in small[0] for d in documents_in(shard)]
    kinds = Counter(d.source for d in found)
    wanted = {"docstring": 180, "source": 120, "licence": 40, "metadata": 40}
    assert {k: n for k, n in wanted.items() if not 0.8 * n <= kinds[k] <= 1.2 * n + 8} == {}
    assert {len(d.text) for d in found} <= set(range(200, 6001))


def test_urls_hold_no_folder_of_the_machine(small):
    roots = {path for path in sysconfig.get_paths().values() if len(path) > 1}
    for shard in small[0]:
        for document in documents_in(shard):
            assert not document.doc_id.startswith(os.sep)
            assert not any(root in document.doc_id for root in roots)


def test_no_document_comes_from_the_reference_from_tests_or_from_this_package():
    names = [file.name for file in corpus.installed_files()]
    assert any(name.startswith("python/json/") for name in names)
    assert not [n for n in names if re.search(r"(^|/)(pydoc_data|groupmates|tests?)/", n)]


def test_the_same_settings_give_the_same_bytes_and_another_seed_others(small, tmp_path):
    shards, reference = small
    again, reference_again = built(tmp_path / "again", corpus_settings(400))
    other, _ = built(tmp_path / "other", corpus_settings(400, seed=1))
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in shards]
    assert reference_again.read_bytes() == reference.read_bytes()
    provenance = "provenance.json"
    assert (shards[0].parent / provenance).read_text() == (again[0].parent / provenance).read_text()
    assert other[0].read_bytes() != shards[0].read_bytes()


def test_the_number_of_files_does_not_change_the_documents(small, tmp_path):
    one, _ = built(tmp_path, corpus_settings(400, files=1))
    dealt = [documents_in(shard) for shard in small[0]]
    in_order = [dealt[i % 3][i // 3] for i in range(400)]
    assert [d.text for d in documents_in(one[0])] == [d.text for d in in_order]


def test_provenance_names_settings_counts_and_package_versions(small):
    record = json.loads((small[0][0].parent / "provenance.json").read_text())
    assert sum(record["documents"].values()) == 400
    assert record["provenance"]["settings"]["corpus"]["documents"] == 400
    assert {"python", "numpy"} <= record["provenance"]["inputs"].keys()


def test_fewer_documents_than_files_is_refused_with_nothing_written(tmp_path):
    with pytest.raises(UserError, match=r"raise corpus\.documents"):
        built(tmp_path / "corpus", corpus_settings(2))
    assert not (tmp_path / "corpus").exists()


def test_a_scarce_library_gives_what_there_is(tmp_path):
    write(tmp_path, {f"p{i}/m.py": module(f"p{i}", i) for i in range(40)})
    files = list(corpus.files_below(tmp_path, ""))
    found = corpus.collect(0, 1000, files)
    assert sorted(d["url"].split("#")[0] for d in found) == sorted(f"p{i}/m.py" for i in range(40))
    assert {d["source"] for d in found} == {"docstring", "source"}


def test_no_package_dominates(tmp_path):
    write(tmp_path, {f"big/m{i}.py": module("big", i) for i in range(300)})
    write(tmp_path, {f"p{i}/m{j}.py": module(f"p{i}", j) for i in range(60) for j in range(4)})
    found = corpus.collect(0, 200, list(corpus.files_below(tmp_path, "")))
    packages = Counter(d["url"].split("/")[0] for d in found)
    assert len(found) == 200
    assert packages["big"] <= 2 * (corpus.PACKAGE_SHARE * 200 + 1)


def test_copies_of_a_licence_are_kept(tmp_path):
    write(tmp_path, {f"p{i}-1.dist-info/licenses/LICENSE": LONG for i in range(5)})
    found = corpus.collect(0, 100, list(corpus.files_below(tmp_path, "")))
    assert [d["text"] for d in found] == [LONG] * 5
    assert {d["source"] for d in found} == {"licence"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("numpy-2.4.dist-info/METADATA", "metadata"),
        ("numpy-2.4.dist-info/licenses/a/b.txt", "licence"),
        ("numpy/COPYING", "licence"),
        ("sphinx/NOTICE.txt", "licence"),
        ("numpy/README.txt", "readme"),
        ("sklearn/datasets/descr/wine.rst", "readme"),
        ("numpy-2.4.dist-info/RECORD", None),
        ("numpy/core.so", None),
        ("METADATA", None),
    ],
)
def test_what_a_file_is_follows_from_its_name(name, kind):
    assert corpus.kind_of(name) == kind


def test_a_python_file_gives_docstrings_or_source_never_both():
    kinds = Counter(corpus.kind_of(f"package/module_{i}.py") for i in range(2000))
    assert kinds.keys() == {"docstring", "source"}
    assert 0.35 <= kinds["source"] / 2000 <= 0.45  # 30 of 75 hundredths


def test_docstrings_have_qualified_names():
    content = (
        f'"""{LONG}"""\nclass A:\n    """About A."""\n    async def f(self):\n'
        '        """About f.\n\n        Indented."""\ndef g():\n    pass\n'
    )
    found = dict(corpus.docstrings(content))
    assert found == {"": LONG, "A": "About A.", "A.f": "About f.\n\nIndented."}


@pytest.mark.parametrize("content", ["print 'old'", "{{ template }} = (", "a = '\0'"])
def test_code_that_this_python_cannot_parse_has_no_docstrings(content):
    assert list(corpus.docstrings(content)) == []


def test_a_docstring_that_spells_a_lone_surrogate_can_be_written(tmp_path):
    ((_, text),) = corpus.docstrings('"""One \\ud800 half."""')
    corpus.write_rows(tmp_path / "a.jsonl.zst", [{"text": text}])
    (example,) = read_examples(str(tmp_path / "a.jsonl.zst"))
    assert example.labelled == "One ? half."


def test_the_description_of_a_package_is_what_follows_its_headers():
    content = "Metadata-Version: 2.4\nName: p\nDescription-Content-Type: text/plain\n\nAbout p.\n"
    assert list(corpus.description(content)) == [("", "About p.\n")]


def test_long_texts_are_cut_at_paragraph_ends_and_lose_nothing():
    paragraphs = [f"{i} " + "word " * 30 + "end." for i in range(50)]
    parts = list(corpus.cut("\n\n".join(paragraphs), 1000))
    assert all(500 <= len(part) <= 1000 for part in parts[:-1])
    assert "\n\n".join(parts) == "\n\n".join(paragraphs)
    assert "".join(corpus.cut("x" * 2500, 1000)) == "x" * 2500


def test_the_pieces_of_a_file_have_numbered_urls_and_none_is_short(tmp_path):
    write(tmp_path, {"README": "\n\n".join([LONG] * 60) + "\n\nshort", "NEWS": "short"})
    found = {f.name: dict(corpus.pieces(f)) for f in corpus.files_below(tmp_path, "")}
    assert list(found["README"]) == ["README#part=1", "README#part=2", "README#part=3"]
    assert found["NEWS"] == {}


def test_reference_passages_are_prose_of_some_hundred_characters(small):
    texts = [example.labelled for example in read_examples(str(small[1]))]
    assert len(texts) >= 300
    assert {len(text) for text in texts} <= set(range(290, 601))
    assert not [text for text in texts if "::=" in text or "****" in text]


def test_a_passage_that_topics_repeat_is_used_once_even_if_its_start_is_reworded():
    body = {name: f"{name * 3} {name * 5} " * 35 + "end." for name in "abcd"}
    pages = {
        "one": "\n\n".join(body[name] for name in "abc"),
        "two": "\n\n".join(["Reworded. " + body["b"], body["d"], body["a"]]),
    }
    assert [passage[0] for passage in corpus.passages(pages)] == list("abcd")


def test_no_two_reference_passages_share_13_words():
    found: Counter[tuple[str, ...]] = Counter()
    for passage in corpus.passages(topics):
        words = passage.split()
        found.update({tuple(words[i : i + 13]) for i in range(len(words) - 12)})
    assert max(found.values()) == 1


def test_headings_grammar_and_code_are_not_prose():
    for paragraph in (
        "The try statement *******************",
        "try_stmt ::= try1_stmt | try2_stmt | try3_stmt or one of the rest of the statements",
        ">>> print the sum of one and two and three and four",
        "def f(a, b=1, *c, d=(2, 3)): return [a, b, *c, d[0]] + list({1: 2})",
    ):
        assert not corpus.is_prose(paragraph)
    assert corpus.is_prose('The "try" statement specifies exception handlers for statements.')
