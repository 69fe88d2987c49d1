"""What people read is short: the README, and every sentence."""

from __future__ import annotations

import pytest

from prose import ROOT, files, sentences, words

READ = (".md", ".py", ".smk")  # kinds of files whose sentences are counted
LONGEST = 40  # words of a sentence
LONG, MANY = 30, 20  # at most so many sentences of more words


def counted() -> list[tuple[int, str]]:
    """Words and place of every sentence, the longest first."""
    found = [
        (words(sentence), f"{path}:{line}: {sentence}")
        for path in files(*READ)
        for line, sentence in sentences(ROOT / path)
    ]
    return sorted(found, reverse=True)


def test_the_readme_has_at_most_130_lines():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def test_no_sentence_is_too_long_and_few_are_long():
    found = counted()
    assert len(found) > 300
    assert [place for count, place in found if count > LONGEST] == []
    assert len([place for count, place in found if count > LONG]) <= MANY


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.md", "One two. Three four five.\nSix.", [2, 3, 1]),
        ("a.md", "One two SLURM. Three is 3.5 `nats of code`.", [3, 3]),
        ("a.md", "# One two\nThree\nfour\n- five\n- six\n  seven\n\neight", [2, 2, 1, 2, 1]),
        ("a.md", "One\n\n| two | three |\n|---|---|\n\n```bash\nfour five\n```\nsix", [1, 1]),
        ("a.md", "One [two three](four.md), e.g. Five.", [5]),
        ("a.md", "**One two.** Three (4 and 5). Six", [2, 2, 1]),
        ("a.py", '"""One two.\n\n    a command to type\n\nThree\nfour\n"""\n', [2, 2]),
        ("a.py", "# One two\n# three\nx = 1  # four\ny = 2  # five six\n", [3, 1, 2]),
        ("a.smk", "# One two. Three\nrule all:\n    input: 1  # four\n", [2, 1, 1]),
        ("a.yaml", "a: 1   # one two\n       # three\nb: 2\n# four\n", [3, 1]),
    ],
)
def test_sentences_are_those_that_a_reader_sees(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    assert [words(sentence) for _, sentence in sentences(tmp_path / name)] == expected


def test_a_sentence_stands_at_the_line_that_its_paragraph_begins_at(tmp_path):
    (tmp_path / "a.md").write_text("# One\n\ntwo\nthree. Four\n")
    found = [line for line, _ in sentences(tmp_path / "a.md")]
    assert found == [1, 3, 3]
