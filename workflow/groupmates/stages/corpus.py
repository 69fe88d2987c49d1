"""The built-in corpus: text that every Python installation has, laid out like a user's pool.

Documents are docstrings, source code, licences, package descriptions and readme files of the
standard library and the installed packages; nothing is imported or downloaded. Natural repetition,
such as one licence in many packages, is kept: a selection method has to cope with it. The reference
set is the language reference that `help()` prints; its package `pydoc_data` gives no documents.
"""

from __future__ import annotations

import ast
import math
import os
import platform
import re
import sysconfig
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from email.parser import HeaderParser
from importlib import metadata
from pathlib import Path
from pydoc_data.topics import topics

import orjson
import zstandard

from groupmates.artefacts.store import Provenance, replacing, write_json
from groupmates.errors import UserError
from groupmates.maths.randomness import hash64
from groupmates.progress import Progress, note
from groupmates.settings.per_stage import CorpusSettings

# Shares of the wanted documents, scarce kinds first: what they lack goes to the kinds behind them.
SHARES = {"licence": 0.10, "metadata": 0.10, "readme": 0.05, "docstring": 0.45, "source": 0.30}
PACKAGE_SHARE = 0.05  # of a kind's documents, at most, from one package
PIECES_PER_FILE = 10
DOCUMENT_CHARACTERS = (200, 6000)
PASSAGE_CHARACTERS = (300, 600)
SHARED_WORDS = 13  # a run of so many equal words is taken for a copy, as in decontamination
FILE_BYTES = 200_000  # larger files are tables and generated code, and slow to parse
EXCLUDED = {"pydoc_data", "groupmates"}  # the reference itself, and this package
SKIPPED_FOLDERS = {"__pycache__", "site-packages", "dist-packages", "test", "tests", "idle_test"}
MACHINE_FILES = ("_sysconfigdata", "__editable__")  # hold paths of this machine
LICENCE = re.compile(r"(licen[cs]e|copying|notice|third.?party)", re.IGNORECASE)
README = re.compile(r"(readme|changelog|changes|history|news|.*\.(md|rst))", re.IGNORECASE)
PROSE_SUFFIXES = {"", ".txt", ".md", ".rst"}


@dataclass(frozen=True)
class SourceFile:
    """A file to take documents from; `name` says package and file, but no folder of the machine."""

    path: Path
    name: str
    package: str
    kind: str


def run(settings: CorpusSettings, *, shards: list[Path], reference: Path) -> None:
    """Write the corpus to `shards`, and the reference passages to `reference`.

    `provenance.json` beside the shards counts the documents by kind and names every package's
    version: what the corpus depends on besides its settings.
    """
    documents = collect(settings.seed, settings.corpus.documents, installed_files())
    if len(documents) < len(shards):
        raise UserError(
            expected=f"at least one document for each of the {len(shards):,} files of the corpus",
            found=f"{len(documents):,} documents",
            where="corpus.documents and corpus.files",
            todo="raise corpus.documents, or lower corpus.files",
        )
    documents.sort(key=lambda d: (hash64(settings.seed, "corpus order", d["url"]), d["url"]))
    for i, shard in enumerate(shards):
        write_rows(shard, documents[i :: len(shards)])
    rows = [{"text": text} for text in passages(topics)]
    write_rows(reference, rows)
    kinds = Counter(d["source"] for d in documents)
    note("corpus", f"{len(documents):,} documents {dict(kinds)}, {len(rows):,} reference passages")
    versions = {d.metadata["Name"]: d.version for d in metadata.distributions()}
    inputs = {"python": platform.python_version(), **versions}
    provenance = Provenance("corpus", settings.model_dump(mode="json"), inputs)
    body = {"documents": dict(kinds), "reference_passages": len(rows)}
    write_json(shards[0].parent / "provenance.json", "corpus", provenance, body)


def write_rows(path: Path, rows: Iterable[dict[str, str]]) -> None:
    """One JSON object a line, compressed, atomically."""
    lines = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    with replacing(path) as temporary:
        temporary.write_bytes(zstandard.ZstdCompressor(write_checksum=True).compress(lines))


# Documents


def installed_files() -> list[SourceFile]:
    """Files of the standard library and of site-packages that documents can be made from."""
    places = sysconfig.get_paths()
    roots = {places["stdlib"]: "python/", places["purelib"]: "", places["platlib"]: ""}
    return [file for root, prefix in roots.items() for file in files_below(Path(root), prefix)]


def files_below(root: Path, prefix: str) -> Iterator[SourceFile]:
    """Source and prose files below a library folder; tests, excluded packages and links are not."""
    for folder, subfolders, names in os.walk(root):
        at_root = Path(folder) == root
        subfolders[:] = sorted(
            s
            for s in subfolders
            if s not in SKIPPED_FOLDERS and not (at_root and s.partition("-")[0] in EXCLUDED)
        )
        for name in sorted(names):
            path = Path(folder, name)
            below = path.relative_to(root).as_posix()
            kind = None if name.startswith(MACHINE_FILES) else kind_of(below)
            if kind and path.is_file() and path.stat().st_size <= FILE_BYTES:
                package = prefix + re.split(r"[/.-]", below)[0]
                yield SourceFile(path, prefix + below, package, kind)


def kind_of(name: str) -> str | None:
    """What a file's text is, from its path below the library folder; None for what is not used."""
    *folders, file = name.split("/")
    suffix = Path(file).suffix.lower()
    if suffix == ".py":
        # A file gives its docstrings or its code, so that no document contains another.
        share = SHARES["source"] / (SHARES["source"] + SHARES["docstring"])
        return "source" if hash64(0, "corpus kind", name) < share * 2**64 else "docstring"
    if file == "METADATA" and folders and folders[-1].endswith(".dist-info"):
        return "metadata"
    if suffix in PROSE_SUFFIXES and ("licenses" in folders or LICENCE.match(file)):
        return "licence"
    if suffix in PROSE_SUFFIXES and README.fullmatch(file.removesuffix(suffix) or file):
        return "readme"
    return "readme" if suffix in {".md", ".rst"} else None


def collect(seed: int, wanted: int, files: list[SourceFile]) -> list[dict[str, str]]:
    """At most `wanted` documents {text, url, source} of `files`, in the proportions of SHARES.

    Files, and pieces within a file, are taken in the order of their hashes; a package stops at its
    share of a kind.
    """
    documents: list[dict[str, str]] = []
    progress = Progress("corpus", wanted, "documents")
    left = 1.0
    for kind, share in SHARES.items():
        goal = min(math.ceil((wanted - len(documents)) * share / left), wanted - len(documents))
        left -= share
        by_package: Counter[str] = Counter()
        cap = max(1, math.ceil(goal * PACKAGE_SHARE))
        candidates = [f for f in files if f.kind == kind]
        candidates.sort(key=lambda f: (hash64(seed, "corpus", f.name), f.name))
        goal += len(documents)
        for file in candidates:
            room = min(goal - len(documents), cap - by_package[file.package], PIECES_PER_FILE)
            if room <= 0:
                continue
            found = dict(pieces(file))  # of functions that share a name, one
            chosen = sorted(found, key=lambda url: hash64(seed, "corpus", url))[:room]
            by_package[file.package] += len(chosen)
            documents += [{"text": found[url], "url": url, "source": kind} for url in chosen]
            progress.advance(len(chosen))
    progress.finish()
    return documents


def pieces(file: SourceFile) -> Iterator[tuple[str, str]]:
    """(url, text) of everything in a file that is long enough, cut at paragraph ends."""
    shortest, longest = DOCUMENT_CHARACTERS
    try:
        content = file.path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return
    for name, text in EXTRACT.get(file.kind, whole)(content):
        url = f"{file.name}#{name}" if name else file.name
        parts = [part for part in cut(text, longest) if len(part) >= shortest]
        for i, part in enumerate(parts):
            yield (f"{url}#part={i + 1}" if len(parts) > 1 else url), part


def whole(content: str) -> Iterator[tuple[str, str]]:
    yield "", content


def description(content: str) -> Iterator[tuple[str, str]]:
    """The description of a package, which follows the headers of its METADATA."""
    yield "", str(HeaderParser().parsestr(content).get_payload())


def docstrings(content: str) -> Iterator[tuple[str, str]]:
    """(qualified name, docstring) of a module, named '', its classes and functions."""

    def visit(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
        if isinstance(node, (ast.Module, *NAMED)) and (text := ast.get_docstring(node)):
            # A docstring may spell a lone surrogate, which is not text.
            yield name, text.encode(errors="replace").decode()
        for child in ast.iter_child_nodes(node):
            if isinstance(child, NAMED):
                yield from visit(child, f"{name}.{child.name}".lstrip("."))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's invalid escapes
        try:
            tree = ast.parse(content)
        except (SyntaxError, ValueError, RecursionError):  # templates, code of other Pythons
            return
    yield from visit(tree, "")


NAMED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
EXTRACT: dict[str, Callable[[str], Iterator[tuple[str, str]]]] = {
    "docstring": docstrings,
    "metadata": description,
}


def cut(text: str, longest: int) -> Iterator[str]:
    """Consecutive pieces of at most `longest` characters, cut at paragraph, line or word ends."""
    rest = text.strip()
    while len(rest) > longest:
        ends = (rest.rfind(end, longest // 2, longest) for end in ("\n\n", "\n", " "))
        stop = next((end for end in ends if end > 0), longest)
        yield rest[:stop].rstrip()
        rest = rest[stop:].lstrip("\n")
    yield rest


# Reference


def passages(texts: dict[str, str]) -> list[str]:
    """Passages of prose, some hundred characters each, that share no run of SHARED_WORDS words.

    Topics repeat one another's sections, often reworded; the split into selection and evaluation
    examples would hold the same text on both sides. The first of such passages is taken.
    """
    shortest, longest = PASSAGE_CHARACTERS
    seen: set[tuple[str, ...]] = set()
    found: list[str] = []
    for topic in sorted(texts):
        rest = ""
        for paragraph in re.split(r"\n\s*\n", texts[topic]):
            if not is_prose(paragraph):
                continue
            rest = f"{rest}\n\n{textwrap.dedent(paragraph)}".strip()
            while len(rest) >= shortest:
                stop = len(rest) if len(rest) <= longest else sentence_end(rest)
                passage, rest = rest[:stop].strip(), rest[stop:]
                words = passage.split()
                runs = set(zip(*(words[i:] for i in range(SHARED_WORDS)), strict=False))
                if not runs & seen:
                    found.append(passage)
                seen |= runs
    return found


def sentence_end(text: str) -> int:
    """The last end of a sentence, else of a word, at which a passage of the right length ends."""
    shortest, longest = PASSAGE_CHARACTERS
    for pattern in (r"[.!?:;]\s", r"\s"):
        ends = [m.end() for m in re.finditer(pattern, text[:longest]) if m.end() >= shortest]
        if ends:
            return ends[-1]
    return longest


def is_prose(paragraph: str) -> bool:
    """Sentences; not a heading, a grammar rule or a code example."""
    text = " ".join(paragraph.split())
    letters = sum(c.isalpha() or c == " " for c in text)
    return (
        "::=" not in text
        and not text.startswith((">>>", "..."))
        and text.count(" ") >= 7
        and letters >= 0.85 * len(text)
    )
