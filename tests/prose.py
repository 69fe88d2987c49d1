"""The sentences of a file that people read, and how many words they have.

Markdown gives its paragraphs, headings and list items; Python its docstrings and comments; rules and
YAML their comments. Tables, code blocks and quoted commands are no sentences.
"""

from __future__ import annotations

import ast
import io
import os
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

import checkout

ROOT = checkout.REPOSITORY
# Folders that are not the project's own.
FOREIGN = {".venv", ".git", "results", "shared", "node_modules", "__pycache__", ".snakemake"}

FENCE = re.compile(r"^(```|~~~).*?^\1 *$", re.DOTALL | re.MULTILINE)
ITEM = re.compile(r"\s*(?:[-*+]|\d+\.|#{1,6}|>)\s+")
LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
# What ends a sentence: a stop, perhaps a closing mark, and then a begin.
END = re.compile(r"[.!?][\"'”’)*_]*\s+(?=[\"'“‘(*_`\[]*[A-Z0-9`−+])")
ABBREVIATED = re.compile(r"\b(?:e\.g|i\.e|cf|vs|al|Eq|Fig|Sec)\.$")

Passage = tuple[int, str]  # line that it begins at, text


def files(*suffixes: str) -> list[Path]:
    """The project's files of these kinds, below its root, whether git knows them yet or not."""
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in FOREIGN]
        found += [Path(folder, name).relative_to(ROOT) for name in names]
    return sorted(path for path in found if path.suffix in suffixes)


def words(sentence: str) -> int:
    """Words with a letter; a piece of code is one."""
    return sum(any(c.isalpha() for c in word) for word in _plain(sentence).split())


def sentences(path: Path) -> Iterator[Passage]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        passages = _markdown(text)
    elif path.suffix == ".py":
        passages = [*_docstrings(text), *_comments(text)]
    else:
        passages = _hash_comments(text)
    for line, passage in passages:
        for sentence in _parted(passage):
            yield line, sentence


def _parted(passage: str) -> Iterator[str]:
    begin, passage = 0, _plain(passage)
    for end in END.finditer(passage):
        if not ABBREVIATED.search(passage[: end.start() + 1]):
            yield passage[begin : end.end()].strip()
            begin = end.end()
    if rest := passage[begin:].strip():
        yield rest


def _plain(text: str) -> str:
    """Without marks: links as their text, a piece of code as the word `code`."""
    text = re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "`code`", LINK.sub(r"\1", text), flags=re.DOTALL)
    return " ".join(text.split())


def _markdown(text: str) -> list[Passage]:
    text = FENCE.sub(lambda block: "\n" * block.group().count("\n"), text)
    return _passages(enumerate(text.splitlines(), 1), apart=ITEM)


def _passages(lines: Iterable[Passage], apart: re.Pattern[str] | None = None) -> list[Passage]:
    """Lines put together up to an empty one, a table's row, or one that begins an item of its own."""
    found: list[tuple[int, list[str]]] = []
    joined = False  # whether the next line goes on with the last passage
    for number, line in lines:
        row = line.lstrip().startswith("|")
        item = apart.match(line) if apart else None
        if not line.strip() or row:
            joined = False
            continue
        if item or not joined:
            found.append((number, []))
        found[-1][1].append(line[item.end() :] if item else line.strip())
        joined = not line.lstrip().startswith("#")
    return [(number, " ".join(part)) for number, part in found]


def _docstrings(source: str) -> list[Passage]:
    found = []
    for node in ast.walk(ast.parse(source)):
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            # An indented line is a command, or a table of words.
            plain = ("" if line.startswith("    ") else line for line in text.splitlines())
            found += _passages(enumerate(plain, node.body[0].lineno), apart=ITEM)
    return found


def _comments(source: str) -> list[Passage]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return _blocks(
        (*token.start, token.line[: token.start[1]], token.string)
        for token in tokens
        if token.type == tokenize.COMMENT
    )


def _hash_comments(text: str) -> list[Passage]:
    """Comments of rules and YAML, which Python's parser does not know."""
    found = (
        (number, mark.start(1), line[: mark.start(1)], mark.group(1))
        for number, line in enumerate(text.splitlines(), 1)
        if (mark := re.search(r"(?:^|(?<=\s))(#.*)$", line))
    )
    return _blocks(found)


def _blocks(comments: Iterable[tuple[int, int, str, str]]) -> list[Passage]:
    """Comments of one column below each other, with nothing before them, are one passage."""
    lines: list[Passage] = []
    last = (0, 0)
    for line, column, before, text in comments:
        if (line, column) != (last[0] + 1, last[1]) or before.strip():
            lines.append((line, ""))
        lines.append((line, text.lstrip("#! ")))
        last = (line, column)
    return _passages(lines, apart=ITEM)
