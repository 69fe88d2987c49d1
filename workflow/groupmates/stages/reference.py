"""The reference set: tokenised, and split into what steers the selection and what judges it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from groupmates.artefacts.store import Provenance, digest, write_table
from groupmates.errors import UserError
from groupmates.maths.randomness import hash64
from groupmates.models.tokenizer import load_tokenizer, reference_tokens
from groupmates.pool.examples import Example, read_examples
from groupmates.pool.identity import sha256_of
from groupmates.pool.listing import expand_range
from groupmates.progress import note
from groupmates.settings.per_stage import ReferenceSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def run(
    settings: ReferenceSettings,
    *,
    reference: list[str],
    evaluation: list[str] | None = None,
    tokenizer: Path,
    output: Path,
) -> None:
    """Write both parts; files of `evaluation` replace the split by hash where given."""
    steering, judging = ranges(reference), ranges(evaluation or [])
    # Read before they are digested: the readers say what is wrong with a file.
    columns = reference_columns(settings, load_tokenizer(tokenizer), steering, judging)
    inputs = {f"reference[{i}]": sha256_of(path) for i, path in enumerate(steering)}
    inputs |= {f"evaluation[{i}]": sha256_of(path) for i, path in enumerate(judging)}
    inputs["tokenizer"] = digest(tokenizer)
    provenance = Provenance("reference", settings.model_dump(mode="json"), inputs)
    write_table(output, "reference", provenance, columns)


def ranges(patterns: list[str]) -> list[str]:
    """The paths and URLs of a command line, where a range stands for several."""
    return [path for pattern in patterns for path in expand_range(str(pattern))]


def reference_columns(
    settings: ReferenceSettings,
    tokens: PreTrainedTokenizerBase,
    reference: list[str],
    evaluation: list[str],
) -> dict[str, list]:
    """The reference set, tokenised and split; in each part by hash, equal examples once."""
    split = settings.split
    selecting = examples(settings, reference)
    evaluating = examples(settings, evaluation)
    records = {i: example.record for i, example in (selecting | evaluating).items()}
    without_label: set[str] = set()
    if not evaluating:
        share = split.evaluation_share * 2**64
        # The same text may be parted differently into context and label: one side has all of it.
        first: dict[str, str] = {}
        for i in sorted(selecting):
            first.setdefault(selecting[i].text, i)
        held_out = {
            i
            for i, example in selecting.items()
            if hash64(settings.seed, "reference split", first[example.text]) < share
        }
        evaluating = {i: e for i, e in selecting.items() if i in held_out}
        selecting = {i: e for i, e in selecting.items() if i not in held_out}
    elif common := texts(selecting) & texts(evaluating):
        raise UserError(
            expected="reference.paths and reference.evaluation_paths without common examples",
            found=f"{len(common):,} examples in both, such as {min(common)!r}"[:400],
            where=", ".join(evaluation),
            todo="remove them from one side: evaluation must be on text that steered nothing",
        )
    table: dict[str, list] = {"example_id": [], "split": [], "input_ids": [], "label_start": []}
    for name, found in (("selection", selecting), ("evaluation", evaluating)):
        if not found:
            raise UserError(
                expected=f"at least one reference example in the {name} part",
                found=f"none of {len(selecting) + len(evaluating)}",
                where=", ".join(reference),
                todo="add examples, or change reference.split.evaluation_share",
            )
        cut = 0
        for i in sorted(found, key=lambda i: hash64(settings.seed, "reference", i)):
            context, labelled = found[i].parts
            if split.loss_on == "all":
                context, labelled = "", found[i].text
            ids, start = reference_tokens(tokens, context, labelled, split.max_tokens)
            if start == len(ids):
                without_label.add(i)
            table["example_id"].append(i)
            table["split"].append(name)
            table["input_ids"].append(ids)
            table["label_start"].append(start)
            cut += len(ids) == split.max_tokens
        note(
            "reference",
            f"{len(found):,} {name} examples, {cut:,} of them as long as "
            f"reference.split.max_tokens ({split.max_tokens}) or cut to it",
        )
    if without_label:
        raise no_label([record for i, record in records.items() if i in without_label])
    return table


@dataclass(frozen=True)
class Joined:
    """An example of the reference, its parts as they are tokenised."""

    record: Example
    parts: tuple[str, str]

    @property
    def text(self) -> str:
        """The same for examples that are parted differently into context and label."""
        return "".join(self.parts)


def texts(found: dict[str, Joined]) -> set[str]:
    return {example.text for example in found.values()}


def examples(settings: ReferenceSettings, paths: list[str]) -> dict[str, Joined]:
    """Examples by id, a hash of the record's texts, which is the same in any file."""
    found: dict[str, Joined] = {}
    joins: Counter[str] = Counter()
    for path in paths:
        for record in read_examples(path):
            context, labelled, how = record.joined(settings.delimiter)
            whole = record.context + chr(0) + record.labelled
            found[f"{hash64(0, 'example', whole):016x}"] = Joined(record, (context, labelled))
            joins[how] += 1
    told = {
        "no context": "without context",
        "white space": "with white space between context and continuation",
        "delimiter": f"joined with reference.delimiter, {settings.delimiter!r}",
        "as it is": "joined as they stand, without white space",
    }
    if paths:
        counts = [f"{joins[how]:,} {words}" for how, words in told.items() if joins[how]]
        note("reference", f"{', '.join(paths)}: {', '.join(counts)}"[:1000])
    return found


def no_label(records: list[Example]) -> UserError:
    first = records[0].labelled
    return UserError(
        expected="a token to predict in every reference example",
        found=f"none in {len(records):,}; the tokenizer knows no character of {first!r:.100}",
        where="; ".join(record.where for record in records[:3]),
        todo="remove the examples, or set sample.tokenizer to one that falls back to bytes",
    )
