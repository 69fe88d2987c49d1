"""The reference set: tokenised, and split into what steers the selection and what judges it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from groupmates.artefacts.store import Provenance, write_table
from groupmates.errors import UserError
from groupmates.maths.randomness import hash64
from groupmates.models.tokenizer import load_tokenizer, reference_tokens
from groupmates.pool.documents import read_reference
from groupmates.progress import note
from groupmates.settings.per_stage import ReferenceSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def run(
    settings: ReferenceSettings,
    *,
    reference: list[Path],
    evaluation: list[Path] | None = None,
    tokenizer: Path,
    output: Path,
) -> None:
    """Write both parts; files of `evaluation` replace the split by hash where given."""
    # Read before they are digested: the readers say what is wrong with a file.
    columns = reference_columns(settings, load_tokenizer(tokenizer), reference, evaluation or [])
    provenance = Provenance.of(
        "reference", settings, reference=reference, evaluation=evaluation, tokenizer=tokenizer
    )
    write_table(output, "reference", provenance, columns)


def reference_columns(
    settings: ReferenceSettings,
    tokens: PreTrainedTokenizerBase,
    reference: list[Path],
    evaluation: list[Path],
) -> dict[str, list]:
    """The reference set, tokenised and split; in each part by hash, equal examples once."""
    split = settings.split
    selecting = dict(examples(settings, reference))
    evaluating = dict(examples(settings, evaluation))
    if not evaluating:
        share = split.evaluation_share * 2**64
        # The same text may be parted differently into context and label: one side has all of it.
        first: dict[str, str] = {}
        for example in sorted(selecting):
            first.setdefault("".join(selecting[example]), example)
        held_out = {
            i
            for i, parts in selecting.items()
            if hash64(settings.seed, "reference split", first["".join(parts)]) < share
        }
        evaluating = {i: e for i, e in selecting.items() if i in held_out}
        selecting = {i: e for i, e in selecting.items() if i not in held_out}
    elif common := texts(selecting) & texts(evaluating):
        raise UserError(
            expected="reference.paths and reference.evaluation_paths without common examples",
            found=f"{len(common):,} examples in both, such as {min(common)!r}"[:400],
            where=", ".join(map(str, evaluation)),
            todo="remove them from one side: evaluation must be on text that steered nothing",
        )
    table: dict[str, list] = {"example_id": [], "split": [], "input_ids": [], "label_start": []}
    for name, found in (("selection", selecting), ("evaluation", evaluating)):
        if not found:
            raise UserError(
                expected=f"at least one reference example in the {name} part",
                found=f"none of {len(selecting) + len(evaluating)}",
                where=", ".join(map(str, reference)),
                todo="add examples, or change reference.split.evaluation_share",
            )
        cut = 0
        for example in sorted(found, key=lambda i: hash64(settings.seed, "reference", i)):
            context, labelled = found[example]
            if split.loss_on == "all":
                context, labelled = "", context + labelled
            ids, start = reference_tokens(tokens, context, labelled, split.max_tokens)
            table["example_id"].append(example)
            table["split"].append(name)
            table["input_ids"].append(ids)
            table["label_start"].append(start)
            cut += len(ids) == split.max_tokens
        note(
            "reference",
            f"{len(found):,} {name} examples, {cut:,} of them as long as "
            f"reference.split.max_tokens ({split.max_tokens}) or cut to it",
        )
    return table


def texts(found: dict[str, tuple[str, str]]) -> set[str]:
    """The texts of examples, however they are parted into context and label."""
    return {context + labelled for context, labelled in found.values()}


def examples(
    settings: ReferenceSettings, paths: list[Path]
) -> Iterator[tuple[str, tuple[str, str]]]:
    """(id, (context, labelled text)); the id is a hash of the text, the same in any file."""
    for path in paths:
        for context, labelled in read_reference(path):
            yield f"{hash64(0, 'example', context + chr(0) + labelled):016x}", (context, labelled)
