"""Reading the reference: contexts, and the texts that a model should predict after them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from groupmates.pool.damage import place
from groupmates.pool.documents import PAIRS, no_text, text_in
from groupmates.pool.records import parsed

Join = Literal["no context", "white space", "delimiter", "as it is"]


@dataclass(frozen=True, slots=True)
class Example:
    """One record of a reference file, its two texts exactly as they stand there."""

    where: str
    context: str
    labelled: str

    def joined(self, delimiter: str) -> tuple[str, str, Join]:
        """Context and labelled text whose concatenation is the example's text, and how it came.

        Where neither side of the join has white space, `delimiter` is put in front of the labelled
        text. Spaces at the end of the context go to the labelled text, too: that is how a word is
        tokenised within a text.
        """
        context, labelled = self.context, self.labelled
        if not context:
            return "", labelled, "no context"
        stem = context.rstrip(" ")
        if stem != context:
            return stem, context[len(stem) :] + labelled, "white space"
        if context[-1].isspace() or labelled[0].isspace():
            return context, labelled, "white space"
        return context, delimiter + labelled, "delimiter" if delimiter else "as it is"


def read_examples(path: str) -> Iterator[Example]:
    """The examples of a reference file, in any format of the pool.

    Records are {context, continuation}, {prompt, response} or {text}, whose context is ''; other
    fields are ignored, and so are blank lines. A labelled text that is missing or blank raises
    `BadRecord`.
    """
    return parsed(path, lambda row, values: Example(place(path, row), *_texts(values)))


def _texts(values: dict[str, Any]) -> tuple[str, str]:
    for context, labelled in PAIRS:
        if context in values and labelled in values:
            if not isinstance(values[context], str):
                raise no_text(values, context, "reference.paths")
            return values[context], text_in(values, labelled, "reference.paths")
    return "", text_in(values, "text", "reference.paths")
