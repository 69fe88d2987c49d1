"""What the stages hand to each other: one entry per artefact, with path, schema and meaning.

Paths are relative to the run's folder `results/{run}/`; `{…}` are wildcards. Raise an artefact's
version when its content changes for the same settings: Snakemake then re-runs its producer.
Signs: influences are changes of reference loss in nats, **lower is better**.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Artefact:
    """`columns` maps a column to its Arrow type by name; None for what is not a table.

    A column of the type `embedding` is no column of the file: it lies in a .npy file beside it.
    """

    path: str
    meaning: str
    columns: dict[str, str] | None = None
    version: int = 1

    @property
    def embedded(self) -> bool:
        """Whether embeddings lie beside the table."""
        return "embedding" in (self.columns or {}).values()

    def schema(self) -> pa.Schema:
        """The Arrow schema of the Parquet file."""
        import pyarrow as pa

        assert self.columns is not None, f"{self.path} is not a table"
        reject = {"row": pa.int64(), "reason": pa.string(), "found": pa.string()}
        kinds = {
            "tokens": pa.list_(pa.int32()),
            "hashes": pa.list_(pa.uint64()),
            "numbers": pa.list_(pa.float64()),
            "rejects": pa.list_(pa.struct(reject)),
            "dictionary": pa.dictionary(pa.int32(), pa.string()),
        }
        fields = [
            pa.field(
                name, kinds[kind] if kind in kinds else pa.type_for_alias(kind), nullable=False
            )
            for name, kind in self.columns.items()
            if kind != "embedding"
        ]
        return pa.schema(fields)


def columns(listed: str) -> dict[str, str]:
    """Columns and their types, from `doc_id string, row int64`."""
    pairs = (column.split() for column in listed.split(","))
    return {pair[0]: pair[1] for pair in pairs}


ADAMW_STATE = "optimizer.safetensors"  # of a checkpoint: its moments and step counts

DOCUMENT = columns("doc_id string, source_file dictionary, source_row int64")
LISTED = columns("source_file string, bytes int64, sha256 string, documents int64, rejected int64")
SCORED = DOCUMENT | columns(
    "source dictionary, n_tokens int64, individual_influence float32, embedding embedding"
)
EXAMPLE_LOSSES = columns("example_id string, loss_sum_nats float64, label_tokens int64")
PROBED = DOCUMENT | columns("text string, input_ids tokens")

ARTEFACTS = {
    "corpus": Artefact(
        "corpus/shard-{shard}.jsonl.zst", "the built-in corpus, laid out like a user's pool"
    ),
    "corpus_reference": Artefact(
        "corpus/reference.jsonl.zst", "the built-in reference set: rows of {text}"
    ),
    "check": Artefact(
        "check/shard-{shard}.parquet",
        "one row per pool file of the shard: size, sha256 of its bytes, numbers of documents and of "
        "bad records, a 64-bit hash of each document's id, and the bad records",
        LISTED | columns("id_hashes hashes, rejects rejects"),
        version=2,
    ),
    "files": Artefact(
        "check/files.parquet",
        "one row per pool file, as in check/; that it exists says that every id occurs once",
        LISTED,
        version=2,
    ),
    "rejects": Artefact(
        "check/rejects.parquet",
        "the pool's bad records, which every stage leaves out: why, and the beginning of what was "
        "found; none where pool.bad_records is stop",
        columns("source_file string, source_row int64, reason string, found string"),
    ),
    "task_examples": Artefact(
        "decontaminate/examples.parquet",
        "the texts of the evaluation examples, as words joined by spaces; example: its row in the "
        "task's file, from 0; of a beginning that several texts of an example share, all but the "
        "first have the last twelve words",
        columns("task dictionary, example int64, words string"),
    ),
    "overlaps": Artefact(
        "decontaminate/shard-{shard}.parquet",
        "a row for each document and task that share 13 words in a row: in how many places of the "
        "document, the first of these places, and the task's first example that has its words",
        DOCUMENT | columns("task dictionary, example int64, windows int64, words string"),
    ),
    "tokenizer": Artefact("sample/tokenizer", "the language model's tokenizer, a HF folder"),
    "probe_pool": Artefact(
        "sample/probe_pool.parquet",
        "documents that rollouts are drawn from; input_ids: at most sequence_length + 1 tokens",
        PROBED,
    ),
    "training_pool": Artefact(
        "sample/training_pool.parquet",
        "documents that a model made from scratch, or missing AdamW state, is warmed up on; "
        "disjoint from the probe pool",
        PROBED,
    ),
    "reference": Artefact(
        "sample/reference.parquet",
        "reference examples, in random order: the first so many of each split are used; split is "
        "'selection' or 'evaluation'; the loss counts the tokens from position label_start (at "
        "least 1) to the end",
        columns("example_id string, split string, input_ids tokens, label_start int32"),
    ),
    "base": Artefact(
        "base", "the checkpoint that is probed: HF folder, optimizer.safetensors, training.json"
    ),
    "rollouts": Artefact(
        "probe/{round}/rollouts.parquet",
        "which documents are trained on in which order; step counts from 1",
        columns("rollout int64, step int32, doc_id string"),
    ),
    "probe": Artefact(
        "probe/{round}/shard-{part}.parquet",
        "oracle influences: loss_after_nats - loss_before_nats of each step",
        columns(
            "rollout int64, step int32, doc_id string, loss_before_nats float64, "
            "loss_after_nats float64, influence_nats float64"
        ),
    ),
    "first_order": Artefact(
        "probe/first_order/part-{part}.parquet",
        "first-order influences, without a training step: a document's mean loss, the norm of its "
        "gradient before it is clipped, and what a probing step would do to the reference loss to "
        "first order",
        columns("doc_id string, loss_nats float64, gradient_norm float64, influence_nats float64"),
        version=2,
    ),
    "fit": Artefact(
        "fit/{model}",
        "relational influence model: weights, tokenizer, relation.json, metrics.json, "
        "heldout.parquet",
        version=2,
    ),
    "heldout": Artefact(
        "fit/{model}/heldout.parquet",
        "oracle and predicted influence of the held-out rollouts, both in nats",
        columns(
            "round string, rollout int64, step int32, doc_id string, "
            "influence_nats float64, predicted_nats float64"
        ),
    ),
    "accept": Artefact(
        "accept/{model}.json", "that the influence model passed the floor, and its correlation"
    ),
    "student": Artefact(
        "distil/{model}",
        "a student of the influence model: float32 vectors of tokens, `influence` [V] and `embedding` "
        "[V, D], whose means over a document's tokens are its scores; how it reads a text, tokenizer, "
        "metrics.json",
    ),
    "group_sets": Artefact(
        "probe/groups/sets.parquet",
        "sets of documents whose influence as a group is measured, in the order of training; size: the "
        "smallest of the sizes whose set holds the document, so that the set of a size is its rows up "
        "to that size; kind: random, or near (a random document and its nearest neighbours); seen: "
        "whether the fit has trained on the document, or chosen by it; influence and embedding are "
        "the final model's",
        columns(
            "set int64, kind string, size int32, step int32, doc_id string, seen bool, "
            "individual_influence float32, embedding embedding"
        ),
        version=2,
    ),
    "group_probe": Artefact(
        "probe/groups/part-{part}.parquet",
        "true group influence: loss_after_nats, after all documents of the set, minus "
        "loss_before_nats, of the checkpoint",
        columns(
            "set int64, kind string, size int32, loss_before_nats float64, "
            "loss_after_nats float64, influence_nats float64"
        ),
    ),
    "groups": Artefact(
        "groups/correlation.json",
        "how well predicted group influence ranks sets by their true one, by kind and size of the "
        "sets, with the relation and without",
        version=2,
    ),
    "score": Artefact(
        "score/shard-{shard}.parquet",
        "every pool document: n_tokens of the language model (end-of-text token included), "
        "individual influence (in label standard deviations), embedding of at most unit length; "
        "source is '' without one; the embeddings are float32 [documents, embedding_size] in a .npy "
        "file beside the table, which has a hash of each row group's",
        SCORED,
        version=2,
    ),
    "score_by": Artefact(
        "score/{model}/shard-{shard}.parquet",
        "the same by another influence model, for the methods that use it: the initial one, or that "
        "of single steps (MATES)",
        SCORED,
        version=2,
    ),
    "semantic_encoder": Artefact(
        "score/semantic/encoder.safetensors",
        "what makes the probed model's mean hidden states an embedding of meaning: the probe pool's "
        "mean and whitened leading directions; beside it a .json with their share of the variance",
    ),
    "semantic": Artefact(
        "score/semantic/shard-{shard}.parquet",
        "an embedding of unit length that no influence has shaped, rows and files as in score/",
        columns("doc_id string, embedding embedding"),
        version=2,
    ),
    "centroids": Artefact(
        "cluster/centroids.npy",
        "float32 [clusters, embedding_size], unit length; beside it centroids.json with sizes and "
        "inertia",
    ),
    "cluster": Artefact(
        "cluster/shard-{shard}.parquet",
        "the cluster of every document, rows as in score/",
        columns("doc_id string, cluster int32"),
    ),
    "semantic_centroids": Artefact(
        "cluster/semantic/centroids.npy", "the same of the embeddings in score/semantic/"
    ),
    "semantic_cluster": Artefact(
        "cluster/semantic/shard-{shard}.parquet",
        "the same by the semantic centroids",
        columns("doc_id string, cluster int32"),
    ),
    "prepared": Artefact(
        "prepare/{method}",
        "what a method's selector makes before it orders the pool: a folder of its own artefacts",
    ),
    "color": Artefact(
        "prepare/{method}/losses.json",
        "reference loss before a color method's training and after each step, nats; beside it the "
        "trained model, a HF folder",
    ),
    "classifier": Artefact(
        "prepare/{method}/classifier.safetensors",
        "a quality classifier: float32 weights of hashed n-grams; beside it a .json with the numbers "
        "of texts and the held-out area under the ROC curve",
    ),
    "regression": Artefact(
        "prepare/{method}/regression.safetensors",
        "what a betr method takes for a document's score: float32 weights of hashed n-grams; beside it "
        "a .json with the numbers of targets and documents and the held-out rank correlation",
    ),
    "brute_force": Artefact(
        "prepare/{method}/brute_force.json",
        "that the brute force of an oracle_greedy method is allowed: documents, picks, evaluations",
    ),
    "quad": Artefact(
        "prepare/{method}/probed.parquet",
        "documents that a quad method probed, in the order in which it did; influence: change of the "
        "reference loss per unit of a step along the document's gradient on the attention layers",
        columns("iteration int32, cluster int32, doc_id string, influence float64"),
    ),
    "quad_clusters": Artefact(
        "prepare/{method}/clusters.parquet",
        "what the bandit knows of every cluster in the end: documents, how many were probed, visits "
        "(those to neighbours by their weight), mean influence of its own documents (NaN without), "
        "mean reward: threshold - influence, HIGHER is better, 0 where nothing is known",
        columns(
            "cluster int32, documents int64, probed int64, visits float64, "
            "influence float64, reward float64"
        ),
    ),
    "order": Artefact(
        "order/{method}/part-{partition}.parquet",
        "a method's preference: documents are taken by (key, rank, shard, row), smallest first, "
        "until the budget is met; row is the position in the score shard of that number",
        columns("shard int32, row int64, rank int32, key float64, group_influence float64"),
    ),
    "select": Artefact(
        "select/{method}/shard-{shard}.parquet",
        "one row per selected document, in pool order; rank counts from 0 within the cluster; "
        "group_influence is theta when picked, in label standard deviations (NaN for methods without)",
        DOCUMENT
        | columns(
            "n_tokens int64, cluster int32, rank int32, individual_influence float32, "
            "group_influence float64"
        ),
    ),
    "dataset": Artefact(
        "dataset/{method}/{file}",
        "the selected rows of a pool file, in its order: unchanged, or as Parquet",
    ),
    "dataset_shard": Artefact(
        "dataset/{method}.shards/{shard}.json",
        "which files of a dataset are of a scoring shard, and their numbers of rows",
        version=2,
    ),
    "dataset_part": Artefact(
        "dataset/{method}/part-{part}",
        "the selected documents of some scoring shards, tokenised: a folder",
    ),
    "windows": Artefact(
        "dataset/{method}/part-{part}/windows.parquet",
        "which documents the windows of an open_lm part have: `key` is webdataset's, `first` where in "
        "the window a piece of a document begins",
        columns("key string, first int64, tokens int64") | DOCUMENT,
    ),
    "documents": Artefact(
        "dataset/{method}/documents.parquet",
        "the documents of a Megatron dataset, in the order of its index",
        DOCUMENT | columns("tokens int64"),
    ),
    "manifest": Artefact("dataset/{method}/manifest.jsonl", "the .tar files of an open_lm dataset"),
    "megatron_tokens": Artefact("dataset/{method}/tokens.bin", "a Megatron dataset's tokens"),
    "megatron_index": Artefact("dataset/{method}/tokens.idx", "where its documents begin"),
    "dataset_readme": Artefact(
        "dataset/{method}/README.md", "the dataset's card for people and for the hub"
    ),
    "dataset_card": Artefact(
        "dataset/{method}.json", "what a dataset is: format, files, documents, tokens"
    ),
    "curve": Artefact(
        "evaluate/{method}/seed-{seed}.parquet",
        "held-out reference loss after `tokens` training tokens",
        columns("tokens int64, loss_nats float64"),
    ),
    "example_losses": Artefact(
        "evaluate/{method}/seed-{seed}.examples.parquet",
        "summed loss and number of label tokens per held-out example after the last step",
        EXAMPLE_LOSSES,
    ),
    "summary": Artefact(
        "evaluate/summary.json", "every method against random and against each other", version=2
    ),
    "pretrain_tokens": Artefact(
        "pretrain/{method}/tokens/part-{part}",
        "the selected documents of some scoring shards, tokenised for pretraining: tokens.npy, [T] of "
        "the smallest type that holds every id, and documents.parquet; part.json has their numbers and "
        "the largest id",
    ),
    "pretrain_documents": Artefact(
        "pretrain/{method}/tokens/part-{part}/documents.parquet",
        "which documents lie in tokens.npy, in its order, which is random; tokens: those of the "
        "document, its end-of-text token included",
        DOCUMENT | columns("tokens int64"),
    ),
    "pretrained": Artefact(
        "pretrain/{method}/seed-{seed}",
        "a model trained on a selection, laid out as base/; training.json also tells the steps and "
        "tokens of the training so far, as `pretrain`",
    ),
    "milestones": Artefact(
        "pretrain/{method}/seed-{seed}.milestones",
        "the same model after some of its steps: a folder step-{step} for each share in "
        "pretrain.milestones, and for the last of pretrain.save_steps",
    ),
    "pretrain_curve": Artefact(
        "pretrain/{method}/seed-{seed}.parquet",
        "a training at its points: steps and tokens so far; loss_nats: mean training loss of the steps "
        "since the row before (NaN at step 0); heldout_nats: reference loss; learning_rate: of the "
        "step before, at step 0 of the first",
        columns(
            "step int64, tokens int64, loss_nats float64, heldout_nats float64, "
            "learning_rate float64"
        ),
    ),
    "pretrain_examples": Artefact(
        "pretrain/{method}/seed-{seed}.examples.parquet",
        "summed loss and number of label tokens per held-out example after the last step",
        EXAMPLE_LOSSES,
    ),
    "ledger": Artefact(
        "pretrain/{method}/seed-{seed}.ledger.parquet",
        "the documents that were trained on; tokens: of the document that were predicted, repeats "
        "counted; windows: in which they were",
        DOCUMENT | columns("windows int64, tokens int64"),
    ),
    "core_predictions": Artefact(
        "core/{lm}/{task}.parquet",
        "a model's prediction for each question of a CORE task, in the order in which they were asked; "
        "line: of the task's file, from 1; option_nats: mean loss per scored token of each option; "
        "predicted: the option of least loss; of a single one 0, where every token of it is the "
        "likeliest, else -1; answer_nats, answer_bytes: of the right answer; cut: longer than the "
        "model's context",
        columns(
            "line int64, gold int32, predicted int32, correct bool, option_nats numbers, "
            "answer_nats float64, answer_bytes int64, cut bool"
        ),
    ),
    "core_table": Artefact(
        "core/table.{format}",
        "accuracy, centred accuracy and bits per byte of every model and task, and means over tasks",
    ),
    "report": Artefact("report.html", "the report", version=4),
    "comparison": Artefact(
        "report/comparison.{format}", "the methods side by side, as CSV and as Markdown", version=2
    ),
    "figure": Artefact(
        "report/{figure}.svg", "a figure of the report by itself, for snakemake --report", version=2
    ),
    "frontier": Artefact(
        "report/frontier.html", "the frontier page: was the selection worth its compute?"
    ),
    "frontier_table": Artefact(
        "report/frontier.{format}",
        "each method's pretraining against random's, with what it cost, as CSV and as Markdown",
    ),
    "frontier_tasks": Artefact(
        "report/frontier-tasks.csv", "the tasks of CORE by method, and differences from random"
    ),
    "plan": Artefact("plan.json", "what the run will cost; nothing depends on it"),
}
# What every stage of pretraining makes anew, in a folder that is laid out like the run's.
OF_STAGE = {
    *("rollouts", "probe", "first_order", "fit", "heldout", "accept", "student"),
    *("score", "score_by", "centroids", "cluster", "prepared", "order", "select"),
    *("dataset", "dataset_shard", "dataset_part", "windows", "documents", "manifest"),
    *("megatron_tokens", "megatron_index", "dataset_readme", "dataset_card"),
    *("pretrain_tokens", "pretrain_documents", "pretrained", "milestones"),
    *("pretrain_curve", "pretrain_examples", "ledger"),
}


def target_of(path: Path) -> str:
    """What snakemake makes `path` with: itself, or the artefact whose folder it lies in."""
    made = (artefact.path for name, artefact in ARTEFACTS.items() if name != "dataset")
    patterns = "|".join(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path)) for path in made)
    whole = re.compile(rf"(.*/)?results/[^/]+/(stages/\d+/[^/]+/)?({patterns})")
    place = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    # The outermost: of a folder that a rule makes, snakemake knows no file.
    outwards = (place, *place.parents)
    found = [p for p in outwards if whole.fullmatch(p.absolute().as_posix())]
    return str(found[-1] if found else place)


def line_of(stage: int, method: str) -> str:
    """The folder of a method's stage of pretraining below the run's; '' is that of the first stage."""
    return f"stages/{stage}/{method}/" if stage > 1 else ""


def path(name: str) -> str:
    """Path of an artefact below the run's folder, with its wildcards."""
    return ARTEFACTS[name].path
