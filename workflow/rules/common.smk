# What all rules share: the validated configuration, the pool's shards, where artefacts lie, and
# the command that runs a stage.
import os
import shlex
import sys
from contextlib import contextmanager
from pathlib import Path

# The package beside the rules: what is parsed here is what runs in every job.
CLONE = Path(str(workflow.current_basedir)).parents[1]
PACKAGE = f"{CLONE}/workflow"
sys.path.insert(0, PACKAGE)
from groupmates.artefacts import catalogue
from groupmates.errors import UserError
from groupmates.pool import listing, opening
from groupmates.settings import config as config_module, lines, per_stage
from groupmates.slurm import join, preflight

# All rules share an environment: the one that snakemake runs in or, with --sdm conda, this one. On
# machines with a GPU, set GROUPMATES_BUILD to cuda for it.
ENVIRONMENT = f"{CLONE}/envs/{os.environ.get('GROUPMATES_BUILD', 'cpu')}.yaml"
MADE_BY_CONDA = "conda" in map(str, workflow.deployment_settings.deployment_method)
# What starts a stage: with --directory, snakemake is elsewhere than the rules.
HERE = os.path.samefile(os.getcwd(), CLONE)
RUN = "workflow/run" if HERE else shlex.quote(f"{PACKAGE}/run")
# For workflow/run, here and in every job.
os.environ["GROUPMATES_PYTHON"] = "python3" if MADE_BY_CONDA else sys.executable


envvars:
    "GROUPMATES_PYTHON",


# A second of work each: on a cluster, waiting in its queue would take longer.
localrules:
    all,
    accept,
    plan,
    plan_random,
    pretrain,


def artefact(name, **wildcards):
    """Path of an artefact of this run; wildcards that are not given stay wildcards.

    What each stage of pretraining makes anew lies in a line: `line=FIRST` is that of the first stage.
    """
    line = LINE if name in catalogue.OF_STAGE else ""
    path = f"results/{CONFIG.run}/{line}{catalogue.path(name)}"
    for wildcard, value in wildcards.items():
        path = path.replace(f"{{{wildcard}}}", str(value))
    return path


def line_of(wildcards):
    return getattr(wildcards, "line", FIRST)


def model_of(line, seed=lines.SEED):
    """The model that a line begins with: the probed one, or that of the stage before."""
    if line == FIRST:
        return artefact("base")
    before, method = lines.before(line)[-1], lines.method_of(line)
    return artefact("pretrained", line=before, method=method, seed=seed)


def base_of(wildcards):
    return model_of(line_of(wildcards))


def read_in(line, name, **wildcards):
    """An artefact as the selectors of a line read it."""
    return model_of(line) if name == "base" else artefact(name, line=line, **wildcards)


def embeddings_of(name):
    """The file beside a table's, with its embeddings (store.beside)."""
    return artefact(name).replace(".parquet", ".npy")


def settings(kind, *artefacts, start=1):
    """The params.settings of a rule; `artefacts` are all that it writes."""
    values = getattr(per_stage, kind).of(CONFIG)
    return given(per_stage.as_param(values, *artefacts, start=start))


def settings_of_stage(kind, *artefacts):
    """The same where they depend on the stage of pretraining, by its share of the budget."""

    def of(wildcards):
        config = lines.of_stage(CONFIG, lines.stage_of(line_of(wildcards)))
        return per_stage.as_param(getattr(per_stage, kind).of(config), *artefacts)

    return of


def given(values):
    """Params that are text as it stands: braces in it are no wildcards."""
    return lambda wildcards: values


@contextmanager
def plainly():
    """Tells what the user can mend as snakemake tells an error of its own, without traceback."""
    try:
        yield
    except UserError as error:
        raise WorkflowError(str(error)) from None


@plainly()
def srun(wildcards, threads, resources):
    """What starts the processes of a training. Not recorded: machines make nothing stale."""
    return join.launch(threads, resources)[0]


@plainly()
def processes(wildcards, threads, resources):
    """The option of a training's command about them."""
    return join.launch(threads, resources)[1]


def listed(name):
    """An input as a short list of ranges, such as shard-{{00000..00278}}.parquet."""
    return lambda wildcards, input: listing.compact(list(input.get(name, [])))


def all_inputs(wildcards, input):
    """All inputs as such a list: the stage tells them apart by the catalogue."""
    return listing.compact(list(input))


def logged(stage, line=""):
    """A job's log. Those of later stages lie in folders of the run's logs: `line` is LINE."""
    return f"results/{CONFIG.run}/logs/{line}{stage}.log"


def job_of(rule):
    """The params.job of every rule: what a job is, for its record.

    Snakemake does not look at it for changes, as it asks for resources.
    """

    def words(wildcards, resources):
        of_job = ((name, value) for name, value in wildcards.items() if value)
        return [rule, *(f"{name}={value}" for name, value in of_job)]

    return words


def memory(mb):
    """The mem_mb of a rule: more with every attempt."""
    return preflight.growing(mb, site_limit("max_mem_mb"))


def minutes(number):
    """The runtime of a rule: more with every attempt."""
    return preflight.growing(number, site_limit("max_runtime"))


def asks(mem_mb, runtime, **others):
    """The resources of a rule; memory and minutes are those of a first attempt."""
    return {"mem_mb": memory(mem_mb), "runtime": minutes(runtime), **others}


def site_limit(name):
    """What the profile's default-resources say that no job may ask more than."""
    limit = (workflow.resource_settings.default_resources or {}).get(name)
    return limit and limit.value


try:
    CONFIG = config_module.load(config)
    FIRST = lines.FIRST
    # A wildcard where there is more than one line: plans without stages are the leaner ones.
    LINE = "{line}" if lines.later(CONFIG) else FIRST
    CORPUS = [artefact("corpus", shard=f"{i:05d}") for i in range(CONFIG.corpus.files)]
    POOL_PATTERNS = (
        CORPUS if CONFIG.pool.paths == "builtin" else list(CONFIG.pool.paths)
    )
    POOL = listing.list_files(POOL_PATTERNS)
    SHARDS = listing.deal(POOL, CONFIG.pool.files_per_shard, CONFIG.pool.shard_mb)
    SAMPLED = listing.chosen(POOL, CONFIG.sample.paths)
    REFERENCE = (
        [artefact("corpus_reference")]
        if CONFIG.reference.paths == "builtin"
        else listing.expand(list(CONFIG.reference.paths), "reference.paths")
    )
    REFERENCE_EVALUATION = listing.expand(
        list(CONFIG.reference.evaluation_paths or []), "reference.evaluation_paths"
    )
    TASK_EXAMPLES = listing.expand_tasks(CONFIG.decontaminate.examples)
except UserError as error:
    raise WorkflowError(str(error)) from None

METHODS = list(CONFIG.select.methods)
SEEDS = range(CONFIG.evaluate.seeds)
ROUNDS = per_stage.rounds(CONFIG)
FITTED = ["initial", "final"][-len(ROUNDS) :]  # a model after each round
PARTS = [f"{i:05d}" for i in range(CONFIG.probe.shards)]
# Of the sets of documents whose group influence is probed; none where none are.
GROUP_PARTS = [f"{i:05d}" for i in range(per_stage.group_jobs(CONFIG))]
BY_STUDENT = CONFIG.score.model == "student"
SCORES = [artefact("score", line=FIRST, shard=shard) for shard in SHARDS]
# Documents that share words with evaluation examples; none where no examples are named.
OVERLAPS = [artefact("overlaps", shard=shard) for shard in SHARDS if TASK_EXAMPLES]
CLUSTERS = [artefact("cluster", line=FIRST, shard=shard) for shard in SHARDS]
# Of the methods with clusters: semantic alone.
SEMANTIC = [m for m in METHODS if CONFIG.select.clusters_of(m) == "semantic"]
SEMANTIC_SCORES = [artefact("semantic", shard=shard) for shard in SHARDS]
SEMANTIC_CLUSTERS = [artefact("semantic_cluster", shard=shard) for shard in SHARDS]


# Files of the user are no inputs to snakemake, which would go by path, and by what is newer. A pool that
# is moved would be scored anew, a file that is replaced by an older one would not, and one from the
# future would undo the job. What a file looks like is a param instead: DECISIONS.md, "The user's files".
# So a plan can be made before the files have arrived, too.


MADE_HERE = {*CORPUS, artefact("corpus_reference")}  # of the built-in corpus


def made_here(paths):
    """The inputs among them."""
    return [path for path in paths if path in MADE_HERE]


def seen(paths):
    """A recorded param: it changes with a file's size or time, not with its path."""
    return given(opening.stamp(path for path in paths if path not in MADE_HERE))


def unrecorded(values):
    """A param that makes nothing stale: snakemake does not compare one that asks for resources."""
    return lambda wildcards, resources: values


def compiled(stage):
    """Whether torch compiles the stage's models; it makes nothing stale."""
    return unrecorded(int(stage in CONFIG.compile))


def pool_argument(files):
    """Files of the pool for a command line, as ranges."""
    return listing.compact([file.marked for file in files])


# Inputs that depend on wildcards.


def probed(round, line):
    return [artefact("probe", line=line, round=round, part=part) for part in PARTS]


def first_ordered(line):
    """Labels that the final model is fitted to in the place of rollouts; none where it is fitted to those."""
    if CONFIG.probe.labels != "first_order":
        return []
    return [artefact("first_order", line=line, part=part) for part in PARTS]


def probes_of_fit(wildcards):
    round = "one_step" if wildcards.model == "one_step" else "random"
    return probed(round, line_of(wildcards))


def bootstrap_of_fit(wildcards):
    wanted = wildcards.model == "final" and "bootstrap" in ROUNDS
    return probed("bootstrap", line_of(wildcards)) if wanted else []


def first_order_of_fit(wildcards):
    return first_ordered(line_of(wildcards)) if wildcards.model == "final" else []


def accepted_of_student(wildcards):
    if wildcards.model != "final":
        return []
    return artefact("accept", line=line_of(wildcards), model="final")


def corpus_of_shard(wildcards):
    return made_here([file.path for file in SHARDS[wildcards.shard]])


def pool_of_shard(wildcards, resources):
    return pool_argument(SHARDS[wildcards.shard])


def pool_seen(wildcards):
    """What the files of a shard look like, and their names."""
    files = SHARDS[wildcards.shard]
    names = listing.compact([file.name for file in files])
    return [*names, seen([file.path for file in files])(wildcards)]


def selection(wildcards):
    return selected(wildcards, SHARDS)


def selection_of_part(wildcards):
    return selected(wildcards, DATASET_PARTS[wildcards.part])


def selected(wildcards, shards):
    line, method = line_of(wildcards), wildcards.method
    return [artefact("select", line=line, method=method, shard=s) for s in shards]


def source_of(wildcards, name, **others):
    """An artefact that a selection reads: that of its own line, or the first line's."""
    line = lines.source(CONFIG, line_of(wildcards), wildcards.method, name)
    return artefact(name, line=line, **others)


def orders_to_take(wildcards):
    parts = [f"{i:05d}" for i in range(ORDER.partitions(wildcards))]
    method = wildcards.method
    return [
        source_of(wildcards, "order", method=method, partition=part) for part in parts
    ]


def scores_to_take(wildcards):
    return [source_of(wildcards, "score", shard=shard) for shard in SHARDS]


def clusters_to_take(wildcards):
    if wildcards.method in SEMANTIC:
        return SEMANTIC_CLUSTERS
    return [source_of(wildcards, "cluster", shard=shard) for shard in SHARDS]


def consumed(wildcards):
    """What the stages before have trained on, and which is not to be taken again."""
    before = [] if CONFIG.pretrain.repeat else lines.before(line_of(wildcards))
    method = wildcards.method
    return [
        artefact("ledger", line=line, method=method, seed=lines.SEED) for line in before
    ]


def part_files(wildcards):
    """The pool files of some scoring shards."""
    shards = DATASET_PARTS[wildcards.part]
    return [file for shard in shards for file in SHARDS[shard]]


def tokenizer_files(folder):
    """Those of them that check reads: the weights beside a tokenizer are not its business."""
    return [f for f in folder_files(folder) if Path(f).name.startswith("tokenizer")]


def folder_files(folder):
    """The files of a checkpoint, tokenizer or encoder; a hub name has none here."""
    if folder is None or not os.path.isdir(folder):
        return []
    return sorted(str(path) for path in Path(folder).rglob("*") if path.is_file())


@plainly()
def pretrained_models(wildcards):
    """The model that each training ends with, in the last stage."""
    CONFIG.pretrain.check_methods()
    CONFIG.pretrain.check_tracker()
    last = len(CONFIG.pretrain.stages)
    return [
        artefact(
            "pretrained", line=lines.line_of(last, method), method=method, seed=seed
        )
        for method in CONFIG.pretrain.methods
        for seed in range(CONFIG.pretrain.seeds)
    ]


def pretrain_settings(wildcards):
    stage = lines.stage_of(line_of(wildcards))
    values = per_stage.PretrainSettings.of_stage(CONFIG, stage)
    return per_stage.as_param(values, *PRETRAINED)


def start_of_training(wildcards):
    """The probed model, or what the same training was at the end of the stage before."""
    return model_of(line_of(wildcards), wildcards.seed)


@plainly()
def trained_by_stage(wildcards):
    """What is read of every training, of all its stages; of models their shape alone."""
    CONFIG.pretrain.check_methods()
    CONFIG.pretrain.check_tracker()
    return [
        artefact(name, line=line, method=method, seed=seed)
        for name in ("pretrain_curve", "pretrain_examples", "pretrained")
        for line in [FIRST, *lines.later(CONFIG)]
        for method in CONFIG.pretrain.methods
        for seed in range(CONFIG.pretrain.seeds)
        if line == FIRST or lines.method_of(line) == method
    ]


def core_pretrained():
    """Those of the run's own models that CORE is asked of, by name."""
    if not CONFIG.core.pretrained:
        return {}
    return dict(zip(CONFIG.pretrain.names, pretrained_models(None), strict=True))


@plainly()
def core_predictions(wildcards):
    CONFIG.core.check_models()
    return expand(
        artefact("core_predictions"),
        lm=[*CONFIG.core.models, *core_pretrained()],
        task=list(CORE),
    )


def core_made(wildcards):
    """The model, where it is the run's own."""
    return core_pretrained().get(wildcards.lm, [])


def core_folder(wildcards, input, resources):
    """Not recorded: a folder that is moved makes nothing stale."""
    return input.made or CONFIG.core.models[wildcards.lm]


def core_seen(wildcards):
    """What the files of the model and of the task look like, and the task's settings."""
    task = CORE[wildcards.task]
    files = folder_files(CONFIG.core.models.get(wildcards.lm))
    files = [*files, f"{CONFIG.core.data}/{task.file}"]
    return [task.model_dump_json(), seen(files)(wildcards)]


wildcard_constraints:
    line=lines.pattern(CONFIG),
    shard=r"\d{5}",
    part=r"\d{5}",
    partition=r"\d{5}",
    round="random|bootstrap|one_step",
    model="initial|final|one_step",
    method="[a-z][a-z0-9_]*",
    seed=r"\d+",
