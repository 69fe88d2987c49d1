"""`config.yaml`, typed. Config enters here once; `per_stage.py` picks what a stage depends on.

Defaults stand in `config.yaml` alone: snakemake merges `--configfile` and `--config` over it, so
every field below is required. The text under a class or field describes it to the user:
`reference.py` makes the key reference and the JSON schema of it.
"""

from __future__ import annotations

import difflib
import math
from importlib.util import find_spec
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, create_model, model_validator

from groupmates.errors import UserError
from groupmates.settings.sections import (
    BadRecords,
    Budget,
    FilledText,
    NotNegative,
    PoolColumns,
    Pooling,
    Positive,
    Rate,
    Section,
    Share,
    StepRate,
    either,
)
from groupmates.settings.selectors import SELECTORS, Clusters, Selector

Paths = Literal["builtin"] | Annotated[list[str], Field(min_length=1)]
Format = Literal["same", "parquet", "open_lm", "megatron"]
METHOD, CHECKPOINT = r"^[a-z][a-z0-9_]*$", r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
NAMES = {  # what a name may be, by its pattern
    METHOD: "must be lower-case letters, digits and _, a letter first",
    CHECKPOINT: "must be letters, digits, _ and -, a letter or digit first",
    NAME: "must be letters, digits, _, - and ., a letter or digit first",
}
TRACKERS = {"tensorboard": ["tensorboard", "tensorboardX"]}  # packages, where they are not the name
WORDS = {"model_type": "must be a section of keys"}  # of errors whose own words speak of types
MethodName = Annotated[str, Field(pattern=METHOD)]
CheckpointName = Annotated[str, Field(pattern=CHECKPOINT)]
Name = Annotated[str, Field(pattern=NAME)]


class Pool(Section):
    """The candidate documents."""

    paths: Paths
    """`builtin`, or a list of files, globs and ranges such as `a-{000..278}.jsonl.zst`. `builtin`
    is the text of the installed Python packages.

    Files are lines of JSON, plain, gzip or zstd, or Parquet. Kinds may be mixed. A folder may
    stand for a dataset that `save_to_disk` of Hugging Face `datasets` wrote. URLs (`s3://`,
    `gs://`, `hf://`, `https://`) and names of hub datasets (`owner/name`) are read where they lie.
    Relative paths start where snakemake is started.

    Name new files at the end of the list. Then only the new files are checked and scored. A file in
    the middle moves later files to other shards, which are scored again.
    """
    files_per_shard: Positive | None
    """Number of consecutive pool files per scoring job. Set this key or `shard_mb`, and the other
    one to `null`. A plan with this key does not need the files to be there."""
    shard_mb: Annotated[float, Field(gt=0)] | None
    """Megabytes of pool files per scoring job, measured as the files lie on disk. A shard ends
    before the file that would exceed this size. A larger file is a shard of its own.

    The files must be there for a plan. `paths: builtin` is refused, because its files are written
    later.
    """
    bad_records: BadRecords
    """What happens to a record that cannot be used: no JSON, no UTF-8, no text, an empty text,
    more than 64 MB, or no token by a given tokenizer. `stop`: the first bad record stops the run.
    `skip`: all stages leave bad records out.

    `check/rejects.parquet` lists the records that were left out. Damaged files, and files of bad
    records alone, always stop the run. Of an id that occurs twice, `skip` keeps the first. Choose
    before probing: a change of this key makes the sample, the base model and the probes anew.
    """
    max_bad_share: Annotated[float, Field(ge=0, le=1)]
    """Largest share of the pool's records that `bad_records: skip` may leave out. A larger share
    stops the run."""
    columns: PoolColumns

    one_of_two = either("files_per_shard", "shard_mb")

    @model_validator(mode="after")
    def sizes_are_known(self) -> Self:
        if self.shard_mb is not None and self.paths == "builtin":
            raise ValueError("shard_mb needs files in paths: those of builtin are written later")
        return self


class Decontaminate(Section):
    """Documents of the pool that share 13 words in a row with an example of an evaluation task. The
    report tells how many there are for each task."""

    examples: list[FilledText]
    """Files of the examples, in any format of the pool, and folders of tasks. `[]`: nothing is looked
    for.

    A record has `query` and `choices`, `context_options` and `continuation`, `context` and
    `continuation`, `prompt` and `response`, or `text`. A folder has a `tasks.yaml` with a list `tasks`
    of `name`, `file` and `type`, as the tasks of llm-foundry: `multiple_choice`, `schema` or
    `language_modeling`. A task with `missing: true` is passed over. An example of fewer than 13 words
    matches nothing, and is counted.
    """
    drop: bool
    """Whether such documents are left out of every selection. `false`: they are only reported.

    The budget is then met by other documents. The sample that is probed keeps them.
    """


class Corpus(Section):
    """The built-in corpus. It is read only where a path says `builtin`. It is made once per run:
    delete `results/{run}/corpus` to make it anew after packages were upgraded."""

    documents: Positive
    """Largest number of documents."""
    files: Positive
    """Number of pool files that the documents are written to."""


class ReferenceSplit(Section):
    """How examples are held out and tokenised."""

    loss_on: Literal["continuation", "all"]
    """Tokens that the reference loss counts. `continuation`: tokens of the continuation, response
    or text. `all`: tokens of the context, too.

    Choose `all` where continuations are short. A LAMBADA continuation is one word: 48 examples have
    about 70 such tokens. The same 48 passages have 4,500 tokens.
    """
    evaluation_share: Annotated[float, Field(gt=0, lt=1)]
    """Share of the examples that is held out, where `evaluation_paths` is `null`."""
    max_tokens: Annotated[int, Field(ge=2)]
    """Largest number of tokens per example. A longer example loses the start of its context, then
    the end of its labels."""


class Reference(Section):
    """Examples of what the model should become good at."""

    paths: Paths
    """`builtin`, or a list of files in any format of the pool. A record has `context` and
    `continuation`, `prompt` and `response`, or `text`."""
    evaluation_paths: Annotated[list[str], Field(min_length=1)] | None
    """Files of the examples that are held out for evaluation. They may share no example with
    `paths`. `null`: a hash of each example splits `paths`."""
    delimiter: str
    """Text between context and continuation where neither has white space there. LAMBADA files of
    DCLM need a space: `never been` and `searched` make `never been searched`. `''`: the two are
    joined as they stand."""
    selection_examples: Positive
    """Largest number of examples that steer the selection (paper: 128, §2).

    More examples make probing slower. In the demo, 128 examples took 7 minutes of probing and 32
    took 3. The labels were equally noisy.
    """
    evaluation_examples: Positive
    """Largest number of held-out examples that measure the effect of a selection."""
    split: ReferenceSplit


class Sample(Section):
    """Documents that are probed or trained on, and how they are tokenised. A hash of the id draws
    them, so a sample does not depend on how documents lie in files."""

    paths: Annotated[list[str], Field(min_length=1)] | None
    """Files of the pool that documents are sampled from, written as in `pool.paths`. `null`: all
    files. Name the files here before you add others to the pool: nothing is probed again then."""
    probe_documents: Positive
    """Number of documents that rollouts are drawn from (paper: 81,920, §2)."""
    training_documents: Positive
    """Number of documents that the base model is warmed up on. A checkpoint's missing AdamW state
    is built on them, too."""
    sequence_length: Annotated[int, Field(ge=2)]
    """Predicted tokens per sequence (paper: 2048). A probed or scored sequence is the beginning of
    one document, up to one token more."""
    tokenizer: FilledText | None
    """Folder of a Hugging Face tokenizer. `null`: the checkpoint's tokenizer, or one trained on the
    pool where `base.checkpoint` is `null`."""
    vocabulary_size: Annotated[int, Field(ge=300)]
    """Number of tokens of the tokenizer that is trained on the pool."""
    end_of_text: FilledText | None
    """Token that ends every document, such as `<|endoftext|>`. `null`: the tokenizer's `eos_token`.

    Set it for a chat model, whose `eos_token` ends a turn of a chat. Name the token that stood between
    documents in its pretraining. The run's tokenizer is saved with it.
    """
    special_tokens_in_text: bool
    """Whether a special token that is spelt in a text, such as `<|endoftext|>`, becomes that token.
    `false`: text is text, wherever the language model's tokenizer reads it. `true` is for texts in
    a chat template."""


class Architecture(Section):
    """Shape of a model made from scratch."""

    family: Literal["gpt_neox", "llama", "qwen3"]
    """Kind of transformer. `qwen3` is a Llama with normalised queries and keys (qk-norm)."""
    hidden_size: Positive
    """Size of the hidden states. It must be an even multiple of `heads`."""
    layers: Positive
    """Number of layers."""
    heads: Positive
    """Number of attention heads."""


class Optimizer(Section):
    """AdamW, in training from scratch and in every probing step (§2). A checkpoint's
    `training.json` counts instead if there is one."""

    learning_rate: Annotated[float, Field(gt=0)]
    """Learning rate of a training step (paper: 3e-3)."""
    beta1: Annotated[float, Field(ge=0, lt=1)]
    """Decay of the first moment per step."""
    beta2: Annotated[float, Field(ge=0, lt=1)]
    """Decay of the second moment per step."""
    epsilon: Annotated[float, Field(gt=0)]
    """Number that is added to the root of the second moment."""
    weight_decay: Rate
    """Decoupled weight decay (paper: 0.033)."""
    clip_norm: Annotated[float, Field(gt=0)]
    """Largest norm of the gradient (paper: 1). Longer gradients are shortened to it."""
    z_loss: Rate
    """Weight of the squared log-partition in the training loss (paper: 1e-4)."""


class Base(Section):
    """The language model that is probed."""

    checkpoint: FilledText | None
    """Hugging Face folder of a causal language model, with safetensors weights and tokenizer.
    `null`: a small model is made from scratch.

    Two more files count if they lie in the folder. `optimizer.safetensors` is the AdamW state of
    the training run. `training.json` has its settings, by the keys of `base.optimizer`. Without the
    state, `optimizer_warmup_steps` build one, with a warning: the influences are then those of
    another state.
    """
    architecture: Architecture
    optimizer: Optimizer
    training_steps: NotNegative
    """Training steps of a model made from scratch."""
    optimizer_warmup_steps: NotNegative
    """Steps that build a checkpoint's missing AdamW state. The weights are held fixed: the learning
    rate is 0. Without such steps, the first AdamW step is a sign step, which measures something
    else."""
    batch_sequences: Positive
    """Sequences per step, in training from scratch and in building the AdamW state."""
    learning_rate_warmup_steps: NotNegative
    """Steps in which the learning rate of a model made from scratch rises to its full value."""


class RandomRound(Section):
    """The first round: rollouts of random documents."""

    rollouts: Positive
    """Number of random rollouts (paper: 20,000)."""


class BootstrapRound(Section):
    """The second round: rollouts that a beam search with the initial influence model finds (§4)."""

    rollouts: NotNegative
    """Number of bootstrapped rollouts (paper: 20,000). Half of them are predicted to be most
    helpful, half most harmful. `0`: there is no second round."""
    beam_width: Positive
    """Beams of the search (paper: 10,000). A search finds at most one set of documents per beam, so
    this is at least half of `rollouts`."""
    expansion: Positive
    """Documents that are tried per beam and step (paper: 5)."""
    max_appearances: Positive
    """How often one document may appear in all bootstrapped rollouts together. `rollouts` ×
    `probe.rollout_length` may not exceed `max_appearances` × `sample.probe_documents`."""


class Groups(Section):
    """Sets of documents that are trained on whole. The report tells how well the predicted
    influence ranks them. Nothing else depends on them."""

    sets: NotNegative
    """Number of sets of random documents, and of sets of near neighbours. `0`: none are probed.
    Otherwise it is at least 3: fewer have no correlation."""
    sizes: Annotated[list[Positive], Field(min_length=1)]
    """Documents per set, in ascending order. The smaller sets are the beginnings of the largest
    one."""

    @model_validator(mode="after")
    def sets_can_be_compared(self) -> Self:
        if self.sizes != sorted(set(self.sizes)):
            raise ValueError(f"sizes must ascend without repeats, not {self.sizes}")
        if 0 < self.sets < 3:
            raise ValueError(f"sets must be 0 or at least 3, not {self.sets}")
        return self


class Probe(Section):
    """Oracle influence: rollouts of single training steps, with the reference loss before and after
    each (§2, §4)."""

    shards: Positive
    """Number of probing jobs per round."""
    labels: Literal["rollouts", "first_order"]
    """What the influence model is fitted to. `rollouts`: influences measured in rollouts (paper).
    `first_order`: the influence of a single step to first order, by a forward and a backward pass of
    each document and without training.

    With `first_order`, every probe document has a label. There is no second round. Of random rollouts
    there are only the `fit.heldout_rollouts`: they measure how far the labels can be trusted.
    """
    rollout_length: Annotated[int, Field(ge=2)]
    """Documents per rollout, T (paper: 10).

    With the same number of probing steps, shorter rollouts had cleaner labels. On one pool and
    sampling seed they selected better, elsewhere as well or worse. So ten stays the default.
    """
    learning_rate: StepRate
    random: RandomRound
    bootstrap: BootstrapRound
    groups: Groups


class Encoder(Section):
    """The encoder turns a document into an embedding."""

    name: str
    """`lm`: mean hidden states of three layers of the probed model, frozen, under a learned linear map.
    Any other value is the folder or name of a Hugging Face encoder, which is fine-tuned (paper:
    `BAAI/bge-base-en-v1.5`).

    `lm` needs no download and one forward pass. A few hundred rollouts are enough for it.
    """
    embedding_size: Positive
    """Embedding size of `lm`, at most three times the hidden size of the model. Other encoders have a
    size of their own."""
    chunk_tokens: Annotated[int, Field(ge=8)]
    """Tokens per chunk of a document (paper: 512). `lm` has no chunks."""
    chunks: Positive
    """Largest number of chunks per document (paper: 4). `lm` has no chunks."""
    pooling: Pooling
    """How an encoder makes one vector of a chunk (paper: `first`). `first`: the vector of the first
    token, as BGE, Arctic-Embed and GTE do. `mean`: over its tokens, as all-MiniLM-L6-v2 and E5 do.
    `lm` has the mean."""
    learning_rate: Annotated[float, Field(gt=0)]
    """Learning rate of a fine-tuned encoder's own weights (paper: 5e-5). All other weights have
    `fit.training.learning_rate`. `lm` is frozen.

    At 3e-3, the weights of all-MiniLM-L6-v2 were ruined: every document had the same prediction.
    """


class Relation(Section):
    """The relation tells how much a document resembles those before it."""

    kernel: Literal["mean", "nearest"]
    """`mean`: mean cosine to the set (paper). `nearest`: cosine to the nearest document of the set,
    to the power of `sharpness`.

    A mean over thousands of selected documents no longer notices one copy. `nearest` was not worse
    on either pool.
    """
    sharpness: Annotated[float, Field(gt=0)]
    """Exponent of the nearest kernel. A higher one looks at near copies alone."""


class FitTraining(Section):
    """Training of the influence model."""

    epochs: Positive
    """Passes over the rollouts (paper: 5). The epoch with the best validation figure is kept."""
    batch_rollouts: Positive
    """Rollouts per training step."""
    learning_rate: Annotated[float, Field(gt=0)]
    """Learning rate of all but a fine-tuned encoder's own weights (paper: 5e-5). The head begins at 0:
    at 5e-5, some hundred steps leave its predictions near the mean label."""
    warmup_steps: NotNegative
    """Steps in which the learning rate rises to its full value (paper: 50)."""
    weight_decay: Rate
    """Decoupled weight decay (paper: 0.01)."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Share of the embedding's entries that training sets to zero."""


class Fit(Section):
    """The relational data influence model (§3)."""

    encoder: Encoder
    relation: Relation
    standardise: Literal["per_position", "global"]
    """How labels are standardised. `per_position`: by the mean and deviation of the step in the
    rollout. `global`: by those of all labels (paper).

    The position explains much of a label, whatever the document. On the built-in corpus, the
    held-out Spearman within positions was 0.404 with `per_position` and 0.288 with `global`.
    """
    validation_rollouts: Positive
    """Random rollouts that choose the epoch. The paper uses the same 1,000 rollouts to choose and
    to report."""
    heldout_rollouts: Positive
    """Random rollouts for the reported figures. Neither training nor the choice of the epoch sees
    them. The model is fitted on the other random rollouts and on the bootstrapped ones."""
    training: FitTraining


class Accept(Section):
    """A model that predicts nothing stops the run before the expensive stages."""

    minimum_spearman: Annotated[float, Field(ge=-1, le=1)]
    """Smallest held-out rank correlation within positions that lets the run go on."""


class Distil(Section):
    """A student of the influence model, where `score.model` is `student`: it learns the scores that
    the influence model gives to some documents. Its scores are means of token vectors."""

    documents: Annotated[int, Field(ge=4)]
    """Largest number of documents that the influence model scores for the student. They come from the
    probe pool and from the training documents, so raise `sample.training_documents` for more.

    On the built-in corpus, students of 1,000, 2,000 and 4,000 documents ranked others as the
    influence model does with a Spearman of 0.913, 0.927 and 0.939. A larger vocabulary needs more.
    """
    heldout_share: Annotated[float, Field(gt=0, lt=1)]
    """Share of these documents that the student does not learn from. Its figures come from them."""
    penalty: Annotated[float, Field(gt=0)]
    """Weight of the squared vectors in the fit, in units of a document's squared token frequencies.
    Raise it where documents are few and their vocabulary is large."""
    minimum_spearman: Annotated[float, Field(ge=-1, le=1)]
    """Smallest held-out rank correlation of the student with the influence model. Below it the run
    stops before the pool is scored."""


class Passes(Section):
    """Forward passes of an encoder over the pool."""

    batch_tokens: Positive
    """Tokens per forward pass of the encoder. It sets the memory of a scoring job, which halves it
    where the accelerator has less."""


class Score(Passes):
    """Scoring of the whole pool."""

    model: Literal["fitted", "student"]
    """What scores the pool. `fitted`: the influence model. `student`: its student, which needs no GPU.

    A student only tokenises, and adds up vectors. The fit, the probes and the figures of the report
    remain those of the influence model.
    """


class Semantic(Section):
    """Embeddings of meaning, which no influence has shaped. They are made only where a method has
    `clusters: semantic`."""

    embedding_size: Positive
    """Number of leading directions of the probed model's mean hidden states that are kept, at most
    the hidden size. They are whitened on the probe pool."""


class Cluster(Section):
    """Spherical k-means on the embeddings (§5), on influence-aware and on semantic ones."""

    clusters: Positive | None
    """Number of clusters (paper: 10,000 for 29.5 million documents). Set this key or `target_size`,
    and the other one to `null`."""
    target_size: Positive | None
    """Documents per cluster. The number of clusters is derived from it.

    Set `clusters` above some million documents: the time of k-means is that of documents × clusters.
    """
    iterations: Positive
    """Iterations of k-means (paper: 100)."""
    sample_per_cluster: Positive
    """Documents per cluster that the centroids are fitted on. All documents are then assigned.

    More than there are in a cluster means all documents, as in the demo.
    """

    one_of_two = either("clusters", "target_size")

    def clusters_of(self, documents: int) -> int:
        """The number of clusters of so many documents."""
        if self.clusters is not None:
            return self.clusters
        assert self.target_size is not None
        return math.ceil(documents / self.target_size)


class Methods(Section):
    """Which documents are selected, by which methods (§6). Every method meets the same budget and
    is trained on and compared in the same way."""

    methods: Annotated[list[MethodName], Field(min_length=1)]
    """Selectors and names of `variants` that run. `random` is the baseline and has no settings.
    Base model, probing, scores and clusters are made once for all methods."""
    variants: dict[MethodName, dict[str, Any]]
    """Selectors with other settings, by a name of your choice: `name: {method: group_mates, quota:
    proportional}`. A variant takes all other settings from its selector's section."""
    budget: Budget
    partitions: Positive
    """Number of jobs that share the clusters of a method. A job holds documents × embedding size ×
    4 bytes / partitions in memory."""

    @model_validator(mode="after")
    def methods_are_known(self) -> Self:
        if len(set(self.methods)) < len(self.methods):
            raise ValueError("methods names a method twice")
        for name, variant in self.variants.items():
            if name in SELECTORS:
                raise ValueError(f"variants.{name}: a selector has this name; choose another")
            self._check_variant(name, variant)
        for name in self.methods:
            if name not in SELECTORS and name not in self.variants:
                known = ", ".join([*SELECTORS, *self.variants])
                raise ValueError(
                    f"methods: {name!r} is no selector and not in variants; known are {known}"
                )
        return self

    def _check_variant(self, name: str, variant: dict[str, Any]) -> None:
        kind = variant.get("method")
        able = [known for known, section in SELECTORS.items() if section.model_fields]
        if kind not in able:
            raise ValueError(f"variants.{name}.method: one of {', '.join(able)}, not {kind!r}")
        known = set(SELECTORS[kind].model_fields)
        unknown = sorted(variant.keys() - known - {"method"})
        if unknown:
            raise ValueError(
                f"variants.{name}: {unknown[0]!r} is no setting of {kind}; known are {sorted(known)}"
            )
        try:
            self.method(name)
        except ValidationError as error:
            found = error.errors()[0]
            key = ".".join(map(str, found["loc"][:1]))
            raise ValueError(
                f"variants.{name}.{key}: {found['msg']}, not {found['input']!r}"
            ) from None

    def method(self, name: str) -> Selector:
        """The settings of a method; a variant's own stand before those of its selector's section."""
        variant = None if name in SELECTORS else self.variants[name]
        kind = SELECTORS[variant["method"] if variant else name]
        section: Selector = getattr(self, kind.name) if kind.model_fields else kind()
        if variant is None:
            return section
        changed = {key: value for key, value in variant.items() if key != "method"}
        return kind.model_validate(section.model_dump() | changed)

    def selected(self) -> dict[str, Selector]:
        """The settings of every method that runs."""
        return {name: self.method(name) for name in self.methods}

    def clusters_of(self, name: str) -> Clusters:
        """The clusters that a method selects within, or is shown in where it looks at none."""
        clusters: Clusters = getattr(self.method(name), "clusters", "influence")
        return clusters


if TYPE_CHECKING:
    Select = Methods
else:  # with the section of every selector that has settings
    OWN = {name: (kind, ...) for name, kind in SELECTORS.items() if kind.model_fields}
    Select = create_model(
        "Select", __base__=Methods, __doc__=Methods.__doc__, __module__=__name__, **OWN
    )


class OpenLm(Section):
    """Settings of the format `open_lm` alone."""

    window_tokens: Annotated[int, Field(ge=2)]
    """Tokens per sequence: one more than are predicted."""
    windows_per_shard: Positive
    """Sequences per `.tar` file. The last file of a job has fewer."""


class Materialise(Section):
    """The selected documents as a dataset to train on."""

    format: Format
    """`same`: unchanged rows, in files like those of the pool. `parquet`: `doc_id`, `text`, and the
    other fields as JSON. `open_lm` and `megatron`: tokenised.

    `open_lm` writes webdataset shards and `manifest.jsonl`. `megatron` writes `tokens.bin` and
    `tokens.idx`. A new format replaces the old dataset and repeats nothing else.
    """
    tokenizer: FilledText | None
    """Folder of the tokenizer for the tokenised formats. `null`: that of the probed model. Each
    document ends with the end-of-text token. A selected document without any other is a bad
    record."""
    shards_per_job: Positive
    """Consecutive scoring shards that one job writes in a tokenised format. Raise it where shards
    are small: the last `.tar` of each job is short."""
    license: str | None
    """Licence on the dataset's card, as the Hugging Face hub names it, such as `odc-by`. `null`: the
    card says `unknown`."""
    open_lm: OpenLm


class EvaluateTraining(Section):
    """Each of these trainings."""

    tokens: Positive
    """Tokens per training, the same for every method."""
    batch_sequences: Positive
    """Sequences per step."""
    learning_rate: Annotated[float, Field(gt=0)]
    """Highest learning rate."""
    learning_rate_warmup_steps: NotNegative
    """Steps in which the learning rate rises to its full value."""
    points: Annotated[int, Field(ge=2)]
    """Evaluations along the training, start and end included."""


class Evaluate(Section):
    """Training of the base model on each selection, with equal tokens."""

    seeds: Positive
    """Number of trainings per method. They give the intervals of the report."""
    training: EvaluateTraining


class PretrainTraining(Section):
    """What a training of a selection is, from its first step to its last."""

    tokens: Positive
    """Tokens per training, over all stages, rounded up to whole batches. A smaller selection is gone
    through several times."""
    batch_sequences: Positive
    """Sequences per step, of `sample.sequence_length` tokens each."""
    learning_rate: Annotated[float, Field(gt=0)]
    """Highest learning rate. It stays at this value between warm-up and decay."""
    warmup_steps: NotNegative
    """Steps in which the learning rate rises to its full value."""
    decay_share: Annotated[float, Field(ge=0, le=1)]
    """Share of all steps, at the end, in which the learning rate falls in a line. `0`: it stays."""
    decay_to: Rate
    """Learning rate of the last step, where there is a decay."""
    points: Annotated[int, Field(ge=2)]
    """Evaluations of the held-out reference loss along the training, start and end included."""
    milestones: list[Annotated[float, Field(gt=0, lt=1)]]
    """Shares of the training after which the model is kept too: folders with AdamW's state, as the
    last one."""
    save_steps: Positive | None
    """Steps after which the model is kept again and again, beside the milestones. `null`: never."""
    save_total_limit: Positive
    """How many of the models of `save_steps` are kept: the last ones."""

    def steps(self, sequence_length: int) -> int:
        """Of the whole training, over all stages."""
        return -(-self.tokens // (self.batch_sequences * sequence_length))


class Pretrain(PretrainTraining):
    """Models trained on selections, for `snakemake pretrain` alone. A run does not need them."""

    methods: list[MethodName]
    """Methods of `select.methods` on whose selections models are trained. `[]`: none."""
    seeds: Positive
    """Trainings per method. A seed has its own order of the text and, from scratch, its own weights.
    Methods share both, so that their differences are paired."""
    start: Literal["base", "scratch"]
    """`base`: the training goes on from the probed model and its AdamW state. `scratch`: it begins with
    new weights of `architecture`. AdamW's other settings are those that the probed model has been
    trained with, or those of `base.optimizer`."""
    architecture: Architecture
    max_passes: Annotated[float, Field(gt=0)] | None
    """Largest number of passes over the tokens of a selection. A training that needs more is refused
    before its first step. `null`: any number."""
    sharding: Literal["none", "fsdp"]
    """`fsdp`: each of several processes has a part of the weights and of AdamW's state (FSDP2). `none`:
    each has all of them. A training may go on with the other value."""
    tracker: FilledText | None
    """Where losses, learning rate and tokens per second are shown while a model is trained: any of
    Accelerate's trackers, such as `tensorboard` or `wandb`, whose package you install."""
    stages: Annotated[list[Share], Field(min_length=1)]
    """Shares of the tokens, and of `select.budget`, of one stage after the other. Each stage but the
    first selects with the model that the one before has trained. The run itself is the first stage: its
    selections have the first share of the budget."""
    repeat: bool
    """Whether a later stage may select documents that an earlier one was trained on. `false`: it
    selects others."""

    @model_validator(mode="after")
    def rate_falls(self) -> Self:
        if self.decay_share and self.decay_to > self.learning_rate:
            raise ValueError(
                f"decay_to ({self.decay_to:g}) must be at most learning_rate "
                f"({self.learning_rate:g}): the rate falls to it"
            )
        return self

    @model_validator(mode="after")
    def stages_are_a_whole(self) -> Self:
        if abs((total := math.fsum(self.stages)) - 1) > 1e-6:
            raise ValueError(f"stages must add up to 1, not {total:g}")
        return self

    @property
    def bounds(self) -> list[float]:
        """Shares of all steps at which the first stage begins and each one ends."""
        return [math.fsum(self.stages[:n]) for n in range(1 + len(self.stages))]

    @property
    def names(self) -> list[str]:
        """A name for each training, method by method."""
        return [f"{method}_{seed}" for method in self.methods for seed in range(self.seeds)]

    def check_methods(self) -> None:
        """Nothing can be pretrained without a selection: `UserError`."""
        if not self.methods:
            raise UserError(
                expected="methods on whose selections models are trained",
                found="none",
                where="pretrain.methods",
                todo="set pretrain.methods to some of select.methods",
            )

    def check_tracker(self) -> None:
        """A tracker without its package is told before anything runs: `UserError`.

        Accelerate, which knows the trackers, takes seconds to import: a training asks it.
        """
        packages = TRACKERS.get(self.tracker, [self.tracker]) if self.tracker else []
        if packages and not any(map(find_spec, packages)):
            raise UserError(
                expected="an installed tracker",
                found=f"no package {self.tracker!r}",
                where="pretrain.tracker",
                todo=f"install it: pip install {self.tracker}; or name another of Accelerate's "
                "trackers, or null",
            )


class Core(Section):
    """CORE, the in-context evaluation of DCLM, for `snakemake core` alone. A run does not need it."""

    models: dict[CheckpointName, FilledText]
    """Models to evaluate, by a name of your choice: `name: folder`. A folder is that of a Hugging Face
    causal language model, with safetensors weights and tokenizer."""
    pretrained: bool
    """Evaluates the last model of every training of `pretrain`, too, by the name `{method}_{seed}`.
    Those that are not there yet are trained first."""
    data: FilledText | None
    """Folder of the tasks: `tasks.yaml` and the files that it names, in llm-foundry's layout."""
    tasks: Literal["all"] | Annotated[list[str], Field(min_length=1)]
    """Names of tasks, or `all` of `tasks.yaml` whose file is not missing. The mean over them is called
    CORE where they are the 22 of DCLM."""
    examples: Positive | None
    """Largest number of questions per task. `null`: all. The first ones of a fixed random order are
    asked, and the examples in the prompts come from among them."""
    batch_tokens: Positive
    """Tokens per forward pass, about. It sets the memory of a job."""

    @model_validator(mode="after")
    def models_have_tasks(self) -> Self:
        if (self.models or self.pretrained) and self.data is None:
            raise ValueError("data must name the folder of CORE's tasks where there are models")
        return self

    def check_models(self) -> None:
        """Nothing can be evaluated without a model: `UserError`."""
        if not self.models and not self.pretrained:
            raise UserError(
                expected="models to evaluate, by name",
                found="none",
                where="core.models",
                todo="set core.models to {name: folder} or core.pretrained to true, and core.data to "
                "the folder of CORE's tasks",
            )


class Report(Section):
    """What the report shows of the pool."""

    map_points: Annotated[int, Field(ge=2)]
    """Documents on the map, drawn evenly from the pool."""
    texts_gigabytes: Rate
    """Documents to read come from pool files of at most this many GB together. A larger pool gives
    files drawn at random. `0`: the page shows no texts and seeks no near-duplicates."""


class PlannedPool(Section):
    """Size of the pool. A plan looks a `null` up in the pool files, which must then be there."""

    documents: Positive | None
    """Number of documents."""
    tokens_per_document: Annotated[float, Field(gt=0)] | None
    """Mean tokens per document, by the language model's tokenizer."""
    text_bytes_per_document: Annotated[float, Field(gt=0)] | None
    """Mean bytes of text per document."""
    file_bytes_per_document: Annotated[float, Field(gt=0)] | None
    """Mean bytes per document in the pool files, compressed or not."""


class PlannedShape(Section):
    """Shape of a transformer."""

    hidden_size: Positive
    """Size of the hidden states."""
    layers: Positive
    """Number of layers."""
    vocabulary_size: Positive
    """Number of tokens."""


class Pretraining(Section):
    """Training that the cost of the run is compared with. Set at most one of the two keys."""

    gpu_hours: Annotated[float, Field(gt=0)] | None
    """GPU-hours of that training."""
    tokens: Positive | None
    """Tokens of that training. The rate of the probed model's training steps turns them into
    hours."""

    one_at_most = either("gpu_hours", "tokens", or_none=True)


class Plan(Section):
    """What `snakemake plan` needs to tell the cost of a run. No other stage reads these keys."""

    gpus: Positive
    """GPUs that jobs may use at once."""
    cores: Positive
    """CPU cores that jobs may use at once."""
    rates: Annotated[list[str], Field(min_length=1)] | None
    """Sources of rates: run folders (`results/RUN`) and JSON files. The first one that knows a rate
    counts. `null`: `results/{run}-calibration`, which `make calibrate` writes."""
    pool: PlannedPool
    reference_tokens: Annotated[float, Field(gt=0)] | None
    """Mean tokens of a reference example. `null`: looked up. At most `reference.split.max_tokens`
    count."""
    checkpoint: PlannedShape | None
    """Shape of `base.checkpoint` where that folder is not there yet. `null`: it is read from the
    folder."""
    encoder: PlannedShape | None
    """Shape of `fit.encoder.name`, or of `select.betr.encoder`, where that folder is not there yet.
    `null`: it is read from the folder."""
    pretraining: Pretraining


Compiled = Literal["base", "probe", "score", "evaluate", "pretrain"]


class Config(Section):
    """All settings of a run."""

    run: Name
    """Name of the run. Everything is written below `results/{run}/`. A name has letters, digits,
    `_`, `.` and `-`."""
    seed: NotNegative
    """Every random choice derives from this seed, the stage and the item. The number of jobs,
    threads or devices changes no choice."""
    pool: Pool
    decontaminate: Decontaminate
    corpus: Corpus
    reference: Reference
    sample: Sample
    base: Base
    probe: Probe
    fit: Fit
    accept: Accept
    distil: Distil
    score: Score
    semantic: Semantic
    cluster: Cluster
    select: Select
    materialise: Materialise
    evaluate: Evaluate
    pretrain: Pretrain
    core: Core
    compile: list[Compiled]
    """Stages whose models torch compiles. Their jobs take minutes more to start. What it gains on a GPU
    was not measured. Results differ by rounding and by draws of dropout, and nothing is made anew.

    `probe` has graphs of kernels for each layer, and documents padded to a few lengths. First-order
    labels have neither. `score` compiles the layers of a Hugging Face encoder. Where the compiler fails
    there, a note says so, and the job goes on without it.
    """
    report: Report
    plan: Plan

    @model_validator(mode="after")
    def sections_agree(self) -> Self:
        length, documents = self.probe.rollout_length, self.sample.probe_documents
        if documents < length:
            raise ValueError(
                f"sample.probe_documents ({documents}) must be at least probe.rollout_length "
                f"({length}): a rollout visits distinct documents"
            )
        groups = self.probe.groups
        if groups.sets and groups.sizes[-1] > documents:
            raise ValueError(
                f"probe.groups.sizes ({groups.sizes[-1]}) must be at most sample.probe_documents "
                f"({documents}): a set holds distinct documents"
            )
        if self.probe.labels == "rollouts":
            self._check_rounds()
        elif (kept := (self.fit.validation_rollouts + self.fit.heldout_rollouts) * length) > (
            documents // 2
        ):
            raise ValueError(
                f"(fit.validation_rollouts + fit.heldout_rollouts) x probe.rollout_length ({kept}) "
                f"must be at most half of sample.probe_documents ({documents}): with probe.labels: "
                "first_order, the model is fitted to the other documents"
            )
        for name, section in self.select.selected().items():
            if why := section.refused(self):
                raise ValueError(f"select.methods: {name} {why}")
        if self.reference.evaluation_paths is not None and self.reference.paths == "builtin":
            raise ValueError("reference.evaluation_paths needs files in reference.paths")
        for key, made in (("base", self.base), ("pretrain", self.pretrain)):
            if made.architecture.hidden_size % (2 * made.architecture.heads):
                shape = f"{key}.architecture"
                raise ValueError(f"{shape}.hidden_size must be an even multiple of {shape}.heads")
        if self.core.pretrained and not self.pretrain.methods:
            raise ValueError("core.pretrained: true needs pretrain.methods")
        if both := self.core.pretrained and set(self.core.models) & set(self.pretrain.names):
            raise ValueError(
                f"core.models: {min(both)!r} is the name of a model that core.pretrained adds"
            )
        steps = self.pretrain.steps(self.sample.sequence_length)
        ends = [round(share * steps) for share in self.pretrain.bounds]
        idle = next((n for n, (a, b) in enumerate(pairwise(ends), 1) if a == b), None)
        if idle is not None:
            raise ValueError(
                f"pretrain.stages: stage {idle} has no step: {self.pretrain.stages[idle - 1]:g} of "
                f"{steps:,} steps"
            )
        if unknown := sorted(set(self.pretrain.methods) - set(self.select.methods)):
            raise ValueError(
                f"pretrain.methods: {unknown[0]!r} is not in select.methods, which are "
                f"{', '.join(self.select.methods)}"
            )
        return self

    def _check_rounds(self) -> None:
        """Whether there are documents for the rollouts, and rollouts for the fit."""
        probe, fit = self.probe, self.fit
        bootstrap, rollouts = probe.bootstrap, probe.random.rollouts
        steps = bootstrap.rollouts * probe.rollout_length
        room = bootstrap.max_appearances * self.sample.probe_documents
        if steps > room:
            raise ValueError(
                f"probe.bootstrap.rollouts x rollout_length ({steps}) must be at most max_appearances "
                f"x sample.probe_documents ({room})"
            )
        kept = fit.validation_rollouts + fit.heldout_rollouts
        if kept >= rollouts:
            raise ValueError(
                f"fit.validation_rollouts + fit.heldout_rollouts ({kept}) must be fewer than "
                f"probe.random.rollouts ({rollouts}): the model is fitted on the rest"
            )
        if bootstrap.beam_width < (bootstrap.rollouts + 1) // 2:
            raise ValueError(
                f"probe.bootstrap.beam_width ({bootstrap.beam_width}) must be at least half of "
                f"probe.bootstrap.rollouts ({bootstrap.rollouts}): a beam gives one rollout"
            )


def load(raw: dict[str, Any]) -> Config:
    """The merged configuration of snakemake, validated; every problem at once in one `UserError`."""
    try:
        return Config.model_validate(_with_nulls(raw))
    except ValidationError as error:
        raise UserError(
            expected="a valid configuration; workflow/docs/config.md explains every key",
            found=problems(error),
            where="config.yaml, --configfile or --config",
            todo="correct the settings named above",
        ) from None


def problems(error: ValidationError) -> str:
    """What is wrong with settings, a line each."""
    return "\n          ".join(map(_problem, error.errors()))


def _with_nulls(value: Any) -> Any:
    """YAML's null as None, at any depth: snakemake passes `--config key=null` on as text."""
    if isinstance(value, dict):
        return {key: _with_nulls(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_with_nulls(entry) for entry in value]
    return None if value in ("null", "Null", "NULL", "~") else value


def _problem(error: Any) -> str:
    # Without the parts that name a choice of a union, such as list[str].
    key = ".".join(str(part) for part in error["loc"] if "[" not in str(part)) or "configuration"
    if error["type"] != "extra_forbidden":
        message = WORDS.get(error["type"]) or error["msg"].removeprefix("Value error, ")
        if error["type"] == "string_pattern_mismatch":
            message = NAMES[error["ctx"]["pattern"]]
        given = "null" if error["input"] is None else repr(error["input"])
        shown = "" if isinstance(error["input"], dict) else f", not {given}"
        if error["type"] == "int_parsing":  # YAML takes 5e7 for text
            shown += "; write out its digits"
        return f"{key}: {message}{shown}"
    sections = {leaf.rsplit(".", i)[0] for leaf in keys() for i in range(1, leaf.count(".") + 1)}
    known = sorted(
        (keys() | sections) - {key.rsplit(".", i)[0] for i in range(1, key.count(".") + 1)}
    )
    near = difflib.get_close_matches(key, known, n=1)
    return f"{key}: no such setting" + (f"; the nearest is {near[0]}" if near else "")


def keys(section: type[BaseModel] = Config, prefix: str = "") -> set[str]:
    """Every leaf of the configuration as a dotted key."""
    found: set[str] = set()
    for name, entry in section.model_fields.items():
        kind = entry.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= keys(kind, f"{prefix}{name}.")
        else:
            found.add(prefix + name)
    return found


def leaves(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found |= leaves(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found
