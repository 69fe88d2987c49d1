"""How much a selection owes to the draw of its rollouts, with the relation and without it.

    python tests/benchmarks/refits.py results/RUN config.yaml [more.yaml ...] [--draws 6] [--seeds 1]
        [--powers 0.5] [--sharpness 32] [--whitened 8] [--model final] [--batch 8]

Each draw takes the rollouts of a finished run with replacement (draw 0: as they are). It fits the
influence model anew, selects by individual influence alone and by the relation, and trains on each
selection. The relation is nearest^S of the embeddings, and of embeddings whitened after the fit where
--whitened has exponents. `--powers` are beginnings of the map, as in embeddings.py. With `--model
one_step` the single steps that `mates` has probed take the place of the rollouts. `--batch` are
rollouts per batch of a fit, if not the run's. Base model, probing and clusters are the run's. Prints
held-out losses by draw, and mean differences with 95 % intervals over draws. Prints how many documents
two draws share. Two processes work, with one thread each.
"""

from __future__ import annotations

import argparse
import tempfile
from concurrent.futures import ProcessPoolExecutor
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import variants
from embeddings import read_run, refitted

from groupmates.artefacts.store import Provenance, read_table, write_table
from groupmates.maths.meaning import embedded, whitening
from groupmates.maths.randomness import hash64
from groupmates.maths.statistics import paired_interval
from groupmates.models.encoders import LmEncoder
from groupmates.models.tokenizer import document_tokens, load_tokenizer, token_lists
from groupmates.pool.documents import read_documents
from groupmates.pool.listing import list_files
from groupmates.settings import config as c
from groupmates.stages import fit


def pool_features(run: Path, config: c.Config, encoder: LmEncoder, window: int) -> torch.Tensor:
    """Hidden states of all documents of the pool, in the order of the score files."""
    tokenizer = load_tokenizer(run / "sample/tokenizer")
    found: dict[str, torch.Tensor] = {}
    for file in list_files(variants.pool_patterns(run, config)):
        documents = list(read_documents(file, config.pool.columns))
        tokens = document_tokens(tokenizer, [d.text for d in documents])
        features = encoder.prepare([], [t[: window + 1] for t in tokens], 8192)
        found |= zip([d.doc_id for d in documents], features, strict=True)
    scores = sorted(run.glob("score/shard-*.parquet"))
    ids = [i for s in scores for i in read_table(s, "score", ["doc_id"])["doc_id"].to_pylist()]
    return torch.stack([found[i] for i in ids])


def scored(run: Path, folder: Path, influence_N: np.ndarray, emb_ND: np.ndarray) -> Path:
    """A run's folder that differs in its scores alone."""
    folder.mkdir(parents=True)
    for name in ("base", "sample", "cluster", "fit", "corpus"):
        if (run / name).exists():
            (folder / name).symlink_to((run / name).resolve())
    start = 0
    for path in sorted(run.glob("score/shard-*.parquet")):
        table = read_table(path, "score")
        rows = slice(start, start + len(table))
        changed = {"individual_influence": influence_N[rows], "embedding": emb_ND[rows]}
        columns = {name: table[name] for name in table.schema.names} | changed
        write_table(
            folder / "score" / path.name,
            "score",
            Provenance("score", {}),
            columns,
            embedding_size=emb_ND.shape[1],
        )
        start += len(table)
    return folder


def documents(selection: list[Path]) -> set[str]:
    return {i for path in selection for i in read_table(path, "select")["doc_id"].to_pylist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("configs", nargs="+")
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--powers", nargs="+", type=float, default=[0.5])
    parser.add_argument("--sharpness", nargs="*", type=float, default=[32])
    parser.add_argument("--whitened", nargs="*", type=float, default=[])
    parser.add_argument("--model", choices=("final", "one_step"), default="final")
    parser.add_argument("--batch", type=int)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    run, config = arguments.run, variants.merged(arguments.configs)
    settings, probe_pool, rounds = read_run(run, arguments.model)
    if arguments.batch:
        training = settings.fit.training.model_copy(update={"batch_rollouts": arguments.batch})
        refit = settings.fit.model_copy(update={"training": training})
        settings = settings.model_copy(update={"fit": refit})
    encoder = LmEncoder(run / "base", settings.fit.encoder.embedding_size)
    prepared = encoder.prepare([], token_lists(probe_pool), 8192)
    features = pool_features(run, config, encoder, config.sample.sequence_length)
    training, validation, _ = fit.split(settings, rounds)
    # As in the run: draw 0 is its final model.
    first, then = hash64(settings.seed, "fit", "final"), hash64(settings.seed, "fit steps", "final")
    seeds = first % 2**63, then
    relations = {"no relation": variants.NONE}
    relations |= {f"nearest^{s:g}": variants.nearest(s) for s in arguments.sharpness}
    whitened = {f"whitened, nearest^{s:g}": variants.nearest(s) for s in arguments.whitened}
    for name, relation in (relations | whitened).items():
        variants.VARIANTS[name] = ("marginal", "paper", relation)
    names = [*relations, *whitened]
    with tempfile.TemporaryDirectory() as scratch:
        picks: dict[tuple[float, str], list[list[Path]]] = {}
        jobs = []
        for draw in range(arguments.draws):
            random = np.random.default_rng(draw)
            drawn = [
                r.take(random.integers(0, len(r.number), len(r.number))) if draw else r
                for r in training
            ]
            for power in arguments.powers:
                model, _ = refitted(settings, run, prepared, drawn, validation, power, seeds)
                with torch.no_grad():
                    emb = model.encoder(features, np.arange(len(features)))
                    influence = model.individual(emb).numpy()
                folder = Path(scratch) / f"{draw}-{power}"
                plain = scored(run, folder / "plain", influence, emb.numpy())
                selected_in = dict.fromkeys(relations, plain)
                if whitened:
                    with torch.no_grad():
                        known = model.encoder(prepared, np.arange(len(prepared))).numpy()
                    mean, axes, _ = whitening(known, known.shape[1])
                    emb_ND = embedded(emb.numpy(), mean, axes)
                    again = scored(run, folder / "whitened", influence, emb_ND)
                    selected_in |= dict.fromkeys(whitened, again)
                for name, of_draw in selected_in.items():
                    selection = variants.selected(of_draw, folder, config, name)
                    picks.setdefault((power, name), []).append(selection)
                    jobs += [(of_draw, config, selection, seed) for seed in range(arguments.seeds)]
        baseline = variants.selected(run, Path(scratch), config, "random")
        jobs += [(run, config, baseline, seed) for seed in range(arguments.seeds)]
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            losses = np.array(list(pool.map(variants.trained, jobs)))
        by_draw = losses.reshape(-1, arguments.seeds).mean(1)
        random_loss, by_draw = by_draw[-1], by_draw[:-1]
        table = by_draw.reshape(arguments.draws, len(arguments.powers), len(names))
        print(f"random selection: {random_loss:.4f}")
        for p, power in enumerate(arguments.powers):
            for r, name in enumerate(names):
                loss = table[:, p, r]
                shared = [
                    len(a & b) / min(len(a), len(b))
                    for a, b in combinations(map(documents, picks[power, name]), 2)
                ]
                print(
                    f"power {power}, {name}: minus random {loss.mean() - random_loss:+.4f}, "
                    f"minus no relation {told(loss - table[:, p, 0])}, "
                    f"minus the first power {told(loss - table[:, 0, r])}; by draw "
                    f"{' '.join(f'{v:.4f}' for v in loss)}; shared "
                    f"{np.mean(shared) if shared else 1:.2f}",
                    flush=True,
                )


def told(difference: np.ndarray) -> str:
    """Mean with its interval over draws."""
    low, high = paired_interval(difference, 0.95)
    return f"{difference.mean():+.4f} [{low:+.4f}, {high:+.4f}]"


if __name__ == "__main__":
    main()
