"""Forward passes as large as the accelerator's memory holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from groupmates.errors import UserError
from groupmates.progress import note

T = TypeVar("T")

LEAST_TOKENS = 256  # a pass has a sequence at least, and hardly any is shorter


class Passes:
    """Passes of at most `tokens` tokens, `score.batch_tokens`; halved for good when memory is short."""

    def __init__(self, label: str, tokens: int) -> None:
        self.label, self.tokens = label, tokens

    def run(self, work: Callable[[int], T]) -> T:
        """What `work` makes in passes of so many tokens; `UserError` where the smallest are too large.

        It begins anew after an error, so its result is that of one size of a pass.
        """
        first = self.tokens
        while (found := self._tried(work)) is None:
            torch.cuda.empty_cache()
            self.tokens //= 2
        if self.tokens < first:
            note(
                self.label,
                f"the accelerator's memory does not hold passes of {first:,} tokens: they have "
                f"{self.tokens:,} from here on; set score.batch_tokens to that",
            )
        return found

    def _tried(self, work: Callable[[int], T]) -> T | None:
        """None where memory was short; the error, and all that it holds, is then gone."""
        try:
            return work(self.tokens)
        except torch.OutOfMemoryError as error:
            if self.tokens // 2 >= LEAST_TOKENS:
                return None
            raise UserError(
                expected=f"memory on the accelerator for a pass of {self.tokens:,} tokens",
                found=str(error).split(". ")[0],
                where=self.label,
                todo="see with nvidia-smi whether other processes have the memory; or take a GPU with "
                "more, or a smaller encoder",
            ) from error
