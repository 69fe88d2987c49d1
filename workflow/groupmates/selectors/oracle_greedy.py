"""oracle_greedy: brute force over true losses, the greedy selection of a small pool by them.

At each pick every remaining document, or some of them drawn at random, is tried: one training step from
the picks so far, measured as in probing. The one of lowest reference loss is trained on for good.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from groupmates.artefacts import store
from groupmates.artefacts.store import Provenance
from groupmates.artefacts.unfinished import Kept
from groupmates.errors import UserError
from groupmates.maths.brute_force import drawn, evaluations, greedy, keys, most_picks
from groupmates.maths.quota import documents_of_ratio
from groupmates.maths.randomness import generator
from groupmates.models.tokenizer import load_tokenizer
from groupmates.pool.identity import identified
from groupmates.pool.listing import located
from groupmates.progress import Progress, note
from groupmates.selectors.order import preparing, without_groups
from groupmates.selectors.texts import Texts
from groupmates.settings.sections import Budget
from groupmates.settings.selectors import OracleGreedy

if TYPE_CHECKING:
    from groupmates.models.probing import Probing

ALLOWED = "brute_force.json"


def prepare(
    settings: OracleGreedy.Prepare,
    *,
    max_evaluations: int,
    files: Path,
    score: list[Path] | None = None,
    output: Path,
) -> None:
    """Refuse more measurements than are allowed, as soon as the documents are counted.

    `score` is needed for a budget in tokens alone: the shortest documents are then assumed.
    """
    budget, candidates = settings.budget, settings.candidates
    documents = sum(store.read_column(files, "files", "documents").to_pylist())
    n_tokens_N = (
        store.concatenate(score, "score", ["n_tokens"])["n_tokens"].to_numpy() if score else None
    )
    picks = picks_at_most(budget, documents, n_tokens_N)
    needed = evaluations(picks, documents, candidates)
    if needed > max_evaluations:
        fewer = max_evaluations // picks
        each = "" if candidates is None else f", {candidates:,} candidates at a time"
        raise UserError(
            expected=f"at most {max_evaluations:,} evaluations of the reference loss",
            found=f"{needed:,}, for {picks:,} picks among {documents:,} documents{each}",
            where=f"select.methods: {output.name}",
            todo="lower select.budget, take a smaller pool, "
            + (f"set select.oracle_greedy.candidates to {fewer:,} or fewer, " if fewer else "")
            + "or raise select.oracle_greedy.max_evaluations: `snakemake plan` tells the time it takes",
        )
    provenance = Provenance.of("select", settings, files=files, score=score)
    body = {"documents": documents, "picks": picks, "evaluations": needed}
    with preparing(output, provenance) as folder:
        store.write_json(folder / ALLOWED, "brute_force", provenance, body)


def order(
    settings: OracleGreedy.Order,
    *,
    prepared: Path,
    base: Path,
    tokenizer: Path,
    reference: Path,
    pool: list[str],
    score: list[Path],
    output: Path,
) -> None:
    """Pick until the budget is met; then the other documents, by the loss last measured.

    Texts are read from the files of the `pool`. Memory: the windows of all documents, and
    the probed model three times. A killed job trains on its picks again, and measures none twice.
    """
    # Here, so that `prepare`, whose work takes no second, need not wait for torch.
    from groupmates.models.probing import Probing
    from groupmates.models.reference import reference_part

    table = store.concatenate(score, "score", ["doc_id", "source_file", "source_row", "n_tokens"])
    documents, n_tokens_N = len(table), table["n_tokens"].to_numpy()
    budget, candidates = settings.budget, settings.candidates
    provenance = Provenance.of(
        "select", settings, base=base, tokenizer=tokenizer, reference=reference, score=score
    )
    allowed = store.read_artefact_json(prepared / ALLOWED, "brute_force")

    def enough(picks: list[int]) -> bool:
        if budget.tokens is not None:
            return bool(n_tokens_N[picks].sum() >= budget.tokens)
        return len(picks) >= int(allowed["picks"])

    def draw(pick: int, left: np.ndarray) -> np.ndarray:
        return drawn(left, candidates, generator(settings.seed, "oracle candidates", pick))

    label = f"order {output.parent.name}"
    with Kept(output, "order", provenance) as kept:
        known = kept.values
        progress = Progress(label, allowed["evaluations"], "evaluations", len(known))
        examples = reference_part(reference, "selection", settings.selection_examples)[0]
        column, limit = settings.text_columns.text, settings.sequence_length + 1
        files = identified(located(pool), store.pool_of(score, "score"))
        texts = Texts(table, files, column, load_tokenizer(tokenizer), limit)
        windows, doc_ids = texts.sequences(np.arange(documents)), table["doc_id"].to_pylist()
        probing = Probing(base, examples, settings.learning_rate)
        probed = Probed(probing, windows, doc_ids, known, progress, kept)
        picks, last_N = greedy(documents, enough, draw, probed.loss, probed.choose)
        progress.total = progress.done  # of a budget in tokens it was the most that there could be
        progress.finish()
        note(
            label,
            f"{len(picks):,} picks, reference loss {probed.start_loss:.4f} before the first, "
            f"{last_N[picks[-1]]:.4f} nats after the last",
        )
        key_N, first = keys(picks, last_N), 0
        with store.table_writer(output, "order", provenance) as writer:
            for shard, rows in enumerate(map(store.rows_of, score)):
                writer.write(without_groups(shard, key_N[first : first + rows]))
                first += rows
        kept.clear()


def picks_at_most(budget: Budget, documents: int, n_tokens_N: np.ndarray | None) -> int:
    """Picks that meet the budget; of one in tokens, where the shortest documents are picked."""
    if budget.tokens is not None:
        assert n_tokens_N is not None
        return most_picks(n_tokens_N, budget.tokens)
    assert budget.ratio is not None
    return documents_of_ratio(budget.ratio, documents)


class Probed:
    """The probed model, trained on the picks so far, and what one more step would do.

    `known`: losses that an earlier attempt has measured, in the order in which they are asked for.
    """

    def __init__(
        self,
        probing: Probing,
        windows: list[np.ndarray],
        doc_ids: list[str],
        known: list[float],
        progress: Progress,
        kept: Kept,
    ) -> None:
        probing.check_ids(windows, doc_ids)
        self._probing, self._windows, self._doc_ids = probing, windows, doc_ids
        self._known, self._asked, self._progress, self._kept = known, 0, progress, kept
        self._picked, self.start_loss = probing.snapshot(), probing.start_loss

    def loss(self, pick: int, document: int) -> float:
        """Reference loss after one more step."""
        if self._asked == len(self._known):
            self._step(pick, document)
            self._known.append(self._probing.loss(self._doc_ids[document], f"pick {pick + 1}"))
            self._progress.advance()
            self._kept.measured(self._known)
        self._asked += 1
        return self._known[self._asked - 1]

    def choose(self, pick: int, document: int) -> None:
        self._step(pick, document)
        self._picked = self._probing.snapshot()

    def _step(self, pick: int, document: int) -> None:
        self._picked.restore()
        # The step that was measured is the one that is taken.
        self._probing.seed_dropout("oracle", f"{pick} {self._doc_ids[document]}")
        self._probing.train(self._windows[document])
