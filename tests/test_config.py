"""config.yaml, typed: what is refused and how it is told, and which stages a key belongs to."""

import copy
import json
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args, get_origin

import jsonschema
import pytest
import yaml
from snakemake.cli import parse_config

from groupmates.artefacts.catalogue import ARTEFACTS
from groupmates.errors import UserError
from groupmates.settings import config, per_stage, reference
from groupmates.settings.per_stage import as_param
from groupmates.settings.sections import StageSettings
from groupmates.settings.selectors import STEPS, Step

ROOT = Path(__file__).parent.parent
DEFAULTS = yaml.safe_load((ROOT / "config.yaml").read_text())
FURTHER = sorted((ROOT / "workflow/configs").glob("*.yaml"))
# Of every stage, and of every step of a selector, by the name that the tables here have for it.
KINDS = {
    kind.__name__.removesuffix("Settings"): kind
    for kind in vars(per_stage).values()
    if isinstance(kind, type) and issubclass(kind, StageSettings) and "Settings" in kind.__name__
}
del KINDS["Stage"]
KINDS |= STEPS


def printed(loaded: config.Config, name: str, method: str | None = None) -> str:
    """The settings of a stage, or of a step as a method has it, as its command line has them."""
    kind = KINDS[name]
    if issubclass(kind, Step):
        found = per_stage.steps_of(loaded, method or kind.function[0].split(".")[1])
        return as_param(found[kind.function[1]], *kind.writes)
    return as_param(kind.of(loaded), "probe")


# Keys that shape the graph: they name files, jobs and wildcards, which snakemake watches itself.
GRAPH_ONLY = {
    "pool.paths",
    "sample.paths",
    "pool.files_per_shard",
    "pool.shard_mb",
    "reference.paths",
    "reference.evaluation_paths",
    "probe.shards",
    "score.model",
    "select.partitions",
    "select.variants",
    "select.oracle_greedy.max_evaluations",  # a limit: refuses, and changes nothing
    "materialise.tokenizer",
    "materialise.shards_per_job",
    # Of a format that is not the default.
    "materialise.open_lm.window_tokens",
    "materialise.open_lm.windows_per_shard",
    "decontaminate.drop",
    "decontaminate.examples",
    "evaluate.seeds",
    "pretrain.methods",
    "pretrain.seeds",
    "pretrain.repeat",
    # How machines do it makes nothing stale.
    "pretrain.sharding",
    "compile",
    "pretrain.tracker",
    "pretrain.max_passes",
    "pretrain.save_total_limit",  # where there is no pretrain.save_steps
    # Of a start that is not the default.
    "pretrain.architecture.family",
    "pretrain.architecture.hidden_size",
    "pretrain.architecture.layers",
    "pretrain.architecture.heads",
    "core.models",
    "core.pretrained",
    "core.data",
    "core.tasks",
}
ONE_OF_TWO = {
    "factor": "absolute",
    "absolute": "factor",
    "clusters": "target_size",
    "tokens": "ratio",
    "shard_mb": "files_per_shard",
}


def merged(base: dict, over: dict) -> dict:
    """As snakemake merges configuration files: mappings key by key, all else replaced."""
    out = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merged(out[key], value) if both else value
    return out


def changed(**keys: object) -> dict:
    """config.yaml with dotted keys changed; `__` stands for a dot."""
    raw = copy.deepcopy(DEFAULTS)
    for key, value in keys.items():
        *sections, leaf = key.split("__")
        place = raw
        for section in sections:
            place = place[section]
        place[leaf] = value
    return raw


def refusal(raw: dict) -> str:
    with pytest.raises(UserError) as caught:
        config.load(raw)
    assert "config.yaml" in caught.value.where
    return caught.value.found


# What is accepted


def test_the_defaults_are_valid():
    assert config.load(DEFAULTS).run == "demo"


@pytest.mark.parametrize("path", FURTHER, ids=lambda p: p.stem)
def test_further_configurations_are_valid_over_the_defaults(path):
    loaded = config.load(merged(DEFAULTS, yaml.safe_load(path.read_text())))
    assert loaded.run != "demo"  # its results have a folder of their own


def test_the_configuration_cannot_be_changed_once_it_is_valid():
    with pytest.raises(ValueError, match="frozen"):
        config.load(DEFAULTS).seed = 3


# What is refused


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("probe__random__rolouts", "probe.random.rollouts"),
        ("pool__path", "pool.paths"),
        ("select__group_mates__qouta", "select.group_mates.quota"),
        ("smaple", "sample"),
        ("seeds", "seed"),
        ("pretrain__max_pass", "pretrain.max_passes"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(key, near):
    found = refusal(changed(**{key: 1}))
    assert found == f"{key.replace('__', '.')}: no such setting; the nearest is {near}"


def test_a_missing_key_is_refused_because_defaults_stand_in_config_yaml_alone():
    raw = changed()
    del raw["score"]["batch_tokens"]
    assert refusal(raw) == "score.batch_tokens: Field required"


def test_every_problem_is_told_at_once():
    found = refusal(changed(seed=-1, probe__shards=0, fit__standardise="none")).splitlines()
    assert [line.split(":")[0].strip() for line in found] == [
        "seed",
        "probe.shards",
        "fit.standardise",
    ]
    assert found[0].endswith("not -1")


@pytest.mark.parametrize("wrong", [3, [], "data/*.jsonl"])
def test_wrong_paths_are_told_by_their_key_and_not_by_types_of_python(wrong):
    found = refusal(changed(pool__paths=wrong)).splitlines()
    assert {line.split(": ")[0].strip() for line in found} == {"pool.paths"}


# What is set and, indented, what is said to it.
REFUSED = """
sample.probe_documents: 9
    sample.probe_documents (9) must be at least probe.rollout_length (10)
probe.labels: rollouts
probe.bootstrap.max_appearances: 1
probe.bootstrap.rollouts: 201
    probe.bootstrap.rollouts x rollout_length (2010) must be at most
    max_appearances x sample.probe_documents (2000)
probe.labels: rollouts
fit.heldout_rollouts: 140
    fit.validation_rollouts + fit.heldout_rollouts (160) must be fewer than probe.random.rollouts (160)
probe.labels: rollouts
probe.bootstrap.beam_width: 39
    probe.bootstrap.beam_width (39) must be at least half of probe.bootstrap.rollouts (80)
probe.labels: first_order
fit.validation_rollouts: 61
    (fit.validation_rollouts + fit.heldout_rollouts) x probe.rollout_length (1010)
    must be at most half of sample.probe_documents (2000)
probe.labels: first_order
select.group_mates.relation: fitted
    select.methods: group_mates has relation: fitted, but probe.labels: first_order
probe.labels: first_order
select.group_mates.rounds: random
    select.methods: group_mates has rounds: random, but with probe.labels: first_order
    there is one model
pretrain: null
    pretrain: must be a section of keys, not null
pretrain.learning_rate: 1.0e-05
    pretrain: decay_to (3e-05) must be at most learning_rate (1e-05): the rate falls to it
pretrain.stages: [0.999, 0.001]
    pretrain.stages: stage 2 has no step: 0.001 of 196 steps
probe.groups.sizes: [2, 2001]
    probe.groups.sizes (2001) must be at most sample.probe_documents (2000)
probe.groups.sizes: [5, 2]
    probe.groups: sizes must ascend without repeats
probe.groups.sizes: [2, 2]
    probe.groups: sizes must ascend without repeats
probe.groups.sizes: []
    probe.groups.sizes: List should have at least 1 item
probe.groups.sizes: [0, 2]
    Input should be greater than 0
probe.groups.sets: 2
    probe.groups: sets must be 0 or at least 3, not 2
reference.evaluation_paths: [a.jsonl]
    reference.evaluation_paths needs files in reference.paths
base.architecture.heads: 5
    base.architecture.hidden_size must be an even multiple of base.architecture.heads
pretrain.architecture: {family: qwen3, hidden_size: 96, layers: 1, heads: 5}
    pretrain.architecture.hidden_size must be an even multiple of pretrain.architecture.heads
pretrain.methods: [mates]
    pretrain.methods: 'mates' is not in select.methods, which are group_mates, random
pretrain.stages: [0.5, 0.6]
    pretrain: stages must add up to 1, not 1.1
cluster.clusters: 10
    cluster: clusters and target_size are both set; set one to null
cluster.target_size: null
    cluster: clusters and target_size are both null; set one of them
probe.learning_rate.absolute: 1.0e-4
    probe.learning_rate: factor and absolute are both set; set one to null
probe.learning_rate.factor: 0
    probe.learning_rate.factor: Input should be greater than 0
select.budget.tokens: 1000
    select.budget: ratio and tokens are both set; set one to null
select.budget.ratio: null
    select.budget: ratio and tokens are both null; set one of them
select.methods: [random, random]
    select: methods names a method twice
select.methods: [random, oracle]
    'oracle' is no selector and not in variants
select.methods: [quality]
    quality needs quality.positives
select.variants: {mates: {method: mates}}
    a selector has this name
select.variants: {x: {method: random}}
    variants.x.method: one of group_mates
select.variants: {x: {quota: marginal}}
    variants.x.method: one of group_mates
select.variants: {x: {method: mates, quota: marginal}}
    variants.x: 'quota' is no setting of mates; known are ['temperature']
select.variants: {x: {method: group_mates, sign: plus}}
    variants.x.sign: Input should be 'paper' or 'ceiling', not 'plus'
select.methods: [x]
select.variants: {x: {method: group_mates, rounds: random}}
probe.bootstrap.rollouts: 0
    select.methods: x has rounds: random
run: ../elsewhere
    run: must be letters, digits, _, - and ., a letter or digit first
select.budget.ratio: 1.5
    select.budget.ratio: Input should be less than or equal
select.budget.ratio: 0
    select.budget.ratio: Input should be greater than 0, not 0
select.budget.ratio: -0.1
    should be greater than 0, not -0.1
select.budget.ratio: .nan
    select.budget.ratio: Input should be a finite
select.budget.ratio: half
    select.budget.ratio: Input should be a valid number
plan.pretraining: {gpu_hours: 104.0, tokens: 1000000000}
    gpu_hours and tokens are both set; set one to null
core.pretrained: true
    data must name the folder of CORE's tasks
core.pretrained: true
core.data: tasks
    core.pretrained: true needs pretrain.methods
core.pretrained: true
core.data: tasks
core.models: {random_0: folder}
pretrain.methods: [random]
    'random_0' is the name of a model that core.pretrained adds
pool.shard_mb: 100.0
    pool: files_per_shard and shard_mb are both set
pool.files_per_shard: null
    pool: files_per_shard and shard_mb are both null
pool.shard_mb: 100.0
pool.files_per_shard: null
    shard_mb needs files in paths
pool.bad_records: ignore
    pool.bad_records
pool.max_bad_share: 1.5
    pool.max_bad_share
"""


@pytest.mark.parametrize(
    ("keys", "message"), re.findall(r"((?:^\S.*\n)+)((?:^ .*\n)+)", REFUSED, re.MULTILINE)
)
def test_settings_that_do_not_go_together_are_refused(keys, message):
    wrong = {key.replace(".", "__"): value for key, value in yaml.safe_load(keys).items()}
    assert " ".join(message.split()) in refusal(changed(**wrong))


ROLLOUTS = {"probe__labels": "rollouts"}


@pytest.mark.parametrize(
    "keys",
    [
        {"sample__probe_documents": 200} | ROLLOUTS,  # 80 of 10 documents = 4 x 200
        {"fit__heldout_rollouts": 139} | ROLLOUTS,
        {"probe__bootstrap__beam_width": 40} | ROLLOUTS,
        {"fit__validation_rollouts": 60},  # and 40: half of the documents
        {"base__architecture__heads": 48},
        {"probe__groups__sizes": [2000]},
        {"probe__groups__sets": 0, "probe__groups__sizes": [2001]},  # none are drawn
        {"pool__shard_mb": 100, "pool__files_per_shard": None, "pool__paths": ["pool/*.jsonl"]},
    ],
)
def test_settings_that_just_go_together_are_accepted(keys):
    config.load(changed(**keys))


# Keys and stages


def leaves(section: dict, prefix: str = "") -> set[str]:
    found = set()
    for key, value in section.items():
        section = isinstance(value, dict) and value  # variants are a mapping of any names
        found |= leaves(value, f"{prefix}{key}.") if section else {prefix + key}
    return found


def test_the_keys_are_those_of_config_yaml():
    assert config.keys() == leaves(DEFAULTS)


def with_other_value(loaded: config.Config, key: str) -> config.Config:
    """The configuration with another, perhaps invalid, value of one key."""

    def replaced(section, names):
        name, *rest = names
        value = getattr(section, name)
        if rest:
            return section.model_copy(update={name: replaced(value, rest)})
        if name in ONE_OF_TWO:
            section = section.model_copy(update={ONE_OF_TWO[name]: None})
        kind = type(section).model_fields[name].annotation
        if name == "methods":
            other: object = ["random"]
        elif name in ("sizes", "milestones", "stages"):
            other = [987]
        elif get_origin(kind) is Literal:
            other = next(choice for choice in get_args(kind) if choice != value)
        elif isinstance(value, bool):
            other = not value
        else:
            other = "changed" if "str" in str(kind) else 987
        return section.model_copy(update={name: other})

    return replaced(loaded, key.split("."))


def stages_of(key: str, **keys: object) -> set[str]:
    """Names of the settings whose printed JSON changes with `key`, others being as `keys` say."""
    before = config.load(changed(**keys))
    after = with_other_value(before, key)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydantic notes that "changed" is no valid choice
        return {
            name
            for name in KINDS
            if name not in ("Plan", "Frontier")  # of all settings, and part of no run
            and printed(before, name) != printed(after, name)
        }


@pytest.mark.parametrize("key", sorted(config.keys()))
def test_every_key_runs_a_stage_again_or_shapes_the_graph(key):
    assert bool(stages_of(key)) == (key not in GRAPH_ONLY and not key.startswith("plan."))


# Of stages that do not run by default; workflow/test_stale.py has every key of those that do.
@pytest.mark.parametrize(
    ("key", "stages"),
    [
        ("pool.columns.source", {"Score", "StudentScore", "order-quality"}),
        (
            "pool.bad_records",
            {
                "Check",
                "CheckPool",
                "Decontaminate",
                "Sample",
                "Score",
                "Embed",
                "StudentScore",
                "Tokenise",
                "order-quality",
            },
        ),
        (
            "sample.sequence_length",
            {"Sample", "Base", "Score", "Embed", "Evaluate", "order-oracle-greedy", "prepare-quad"}
            | {"Distil", "Pretrain"},
        ),
        ("sample.end_of_text", {"Sample"}),
        ("sample.special_tokens_in_text", {"Sample", "Tokenise"}),
        ("materialise.license", {"Assemble"}),  # on the dataset's card
        ("reference.delimiter", {"Reference", "prepare-quality"}),
        ("probe.learning_rate.factor", {"Probe", "order-oracle-greedy"}),
        ("probe.labels", {"RandomPlan", "Fit"}),
        ("probe.rollout_length", {"RandomPlan", "BootstrapPlan", "Fit", "OneStepFit"}),
        ("fit.heldout_rollouts", {"RandomPlan", "Fit", "OneStepFit"}),
        ("fit.relation.sharpness", {"Fit", "OneStepFit"}),
        ("score.batch_tokens", {"Score", "Embed"}),
        ("distil.penalty", {"Distil"}),
        ("semantic.embedding_size", {"SemanticFit"}),
        ("select.semdedup.clusters", {"order-semdedup"}),
        (
            "reference.selection_examples",
            {"Probe", "prepare-quality", "order-oracle-greedy", "prepare-quad"},
        ),
        ("select.mates.temperature", {"order-mates"}),
        ("select.quality.ngrams", {"prepare-quality", "order-quality"}),
        ("select.semdedup.threshold", {"order-semdedup"}),
        ("select.oracle_greedy.candidates", {"prepare-oracle-greedy", "order-oracle-greedy"}),
        ("select.oracle_greedy.max_evaluations", set()),  # refuses, and changes nothing
        ("select.quad.damping", {"prepare-quad"}),
        ("materialise.format", {"Materialise", "Tokenise", "Assemble"}),
        ("pretrain.learning_rate", {"Pretrain"}),
        ("pretrain.start", {"Pretrain"}),
        ("core.examples", {"Core", "CoreTable"}),
        ("core.batch_tokens", {"Core"}),
    ],
)
def test_a_key_runs_exactly_the_stages_that_depend_on_it(key, stages):
    found = stages_of(key)
    assert stages <= found
    # A further selector may depend on any key outside its section that it declares.
    assert found - stages <= (set() if key.startswith("select.") else STEPS.keys())


def test_a_variant_has_its_own_settings_before_those_of_its_selector():
    raw = changed(
        select__variants={"paper": {"method": "group_mates", "quota": "proportional"}},
        select__group_mates__sign="ceiling",
    )
    section = config.load(raw).select.method("paper")
    found = (section.name, section.quota, section.sign)
    assert found == ("group_mates", "proportional", "ceiling")
    text = printed(config.load(raw), "order-group-mates", "paper")
    assert json.loads(text)["group_mates"]["quota"] == "proportional"


def test_one_step_models_hold_out_the_same_share_of_their_labels():
    fit = per_stage.one_step_fit(config.load(changed(probe__random__rollouts=100)))
    assert (fit.validation_rollouts, fit.heldout_rollouts) == (200, 400)  # 1,800 steps
    few = config.load(changed(sample__probe_documents=1200))  # of 2,400 steps
    assert per_stage.one_steps(few) == 1200
    assert per_stage.one_step_fit(few).heldout_rollouts == 200


@pytest.mark.parametrize(
    ("keys", "jobs"),
    [
        ({}, 2),  # 1,280 steps; a job of the random round has 800
        ({"probe__groups__sets": 12}, 1),
        ({"probe__groups__sets": 200}, 2),  # never more than probe.shards
        ({"probe__groups__sets": 0}, 0),
        ({"select__methods": ["random"]}, 0),  # no method goes by groups
        ({"probe__shards": 50, "probe__groups__sets": 3, "probe__groups__sizes": [900]}, 6),
    ],
)
def test_sets_are_probed_in_jobs_like_those_of_rollouts_where_a_method_goes_by_groups(keys, jobs):
    keys = ROLLOUTS | keys
    assert per_stage.group_jobs(config.load(changed(**keys))) == jobs


def test_the_paper_s_labels_hold_out_of_the_random_round_what_others_probe_for_it():
    assert stages_of("probe.random.rollouts", **ROLLOUTS) >= {"RandomPlan", "OneStepFit"}
    assert "RandomPlan" not in stages_of("fit.heldout_rollouts", **ROLLOUTS)
    assert "RandomPlan" not in stages_of("probe.random.rollouts")


def test_a_model_from_scratch_has_a_shape_and_an_optimizer_of_its_own():
    for start, found in (("scratch", True), ("base", False)):
        for key in ("pretrain.architecture.layers", "base.optimizer.beta1"):
            assert ("Pretrain" in stages_of(key, pretrain__start=start)) == found


def test_later_stages_have_the_shares_behind_each_other_and_go_on_from_a_model():
    raw = changed(pretrain__stages=[0.1, 0.2, 0.7], pretrain__start="scratch")
    loaded = config.load(raw)
    first = per_stage.PretrainSettings.of(loaded)
    second, third = (per_stage.PretrainSettings.of_stage(loaded, n) for n in (2, 3))
    assert first.architecture == loaded.pretrain.architecture
    assert second.architecture is second.optimizer is None
    assert [(s.stage, s.begin, s.end) for s in (first, second)] == [
        (1, 0.0, first.end),
        (2, first.end, third.begin),
    ]
    assert (first.end, third.end) == (0.1, 1.0)


def test_what_changes_no_model_trains_none_anew():
    for steps, stages in ((5, {"Pretrain"}), (None, set())):
        assert stages_of("pretrain.save_total_limit", pretrain__save_steps=steps) == stages
    shares = [
        per_stage.PretrainSettings.of(config.load(changed(pretrain__milestones=of)))
        for of in ([0.2, 0.5], [0.5, 0.2, 0.5])
    ]
    assert shares[0] == shares[1]


def test_windows_matter_to_the_format_that_has_them_alone():
    for format, stages in (("open_lm", {"Tokenise"}), ("megatron", set())):
        for key in ("window_tokens", "windows_per_shard"):
            assert stages_of(f"materialise.open_lm.{key}", materialise__format=format) == stages


# Settings on a command line


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_settings_survive_the_command_line(kind):
    loaded = config.load(DEFAULTS)
    text = as_param(kind.of(loaded), "score", "report", start=5)
    assert per_stage.from_param(text, kind) == kind.of(loaded)
    body = json.loads(text)
    assert body.pop("version") == 3 + ARTEFACTS["score"].version + ARTEFACTS["report"].version
    assert set(body) == set(kind.model_fields)


def test_printed_settings_are_sorted_at_every_depth():
    text = printed(config.load(DEFAULTS), "Fit")
    assert text == json.dumps(json.loads(text), sort_keys=True)
    assert list(json.loads(text)["fit"]["training"])[:2] == ["batch_rollouts", "dropout"]


def test_the_order_of_keys_in_config_yaml_changes_no_printed_settings():
    backwards = {
        k: dict(reversed(v.items())) if isinstance(v, dict) else v
        for k, v in reversed(DEFAULTS.items())
    }
    for name in KINDS:
        one, other = (printed(config.load(raw), name) for raw in (DEFAULTS, backwards))
        assert one == other


def test_a_new_version_of_an_artefact_runs_its_stage_again(monkeypatch):
    loaded = config.load(DEFAULTS)
    for artefact, name in (("probe", "Probe"), ("quad_clusters", "prepare-quad")):
        before = printed(loaded, name)
        monkeypatch.setitem(ARTEFACTS, artefact, replace(ARTEFACTS[artefact], version=99))
        assert printed(loaded, name) != before


# null on a command line


@pytest.mark.parametrize("over", [{"base": {"checkpoint": "null"}}, {"base": {"checkpoint": None}}])
def test_null_is_no_folder_of_that_name_wherever_it_comes_from(over):
    assert config.load(merged(changed(base__checkpoint="models/own"), over)).base.checkpoint is None


def test_snakemake_passes_null_on_as_text_at_any_depth():
    pool = "pool={shard_mb: 5, files_per_shard: null, paths: [a.jsonl], columns: {id: null}}"
    select = "select={variants: {own: {method: group_mates, sharpness: null}}}"
    given = parse_config([pool, select, "run=null"])
    assert given["run"] == given["pool"]["columns"]["id"] == "null"
    raw = merged(changed(pool__columns__id="id"), {**given, "run": "own"})
    loaded = config.load(raw)
    assert (loaded.pool.columns.id, loaded.pool.shard_mb) == (None, 5)
    assert loaded.select.method("own").sharpness is None
    assert refusal(raw | {"run": "null"}) == "run: Input should be a valid string, not null"


@pytest.mark.parametrize("null", ["null", "Null", "NULL", "~"])
def test_every_spelling_of_null_on_a_command_line_is_null_in_lists_too(null):
    """A column was named ~, and a file null."""
    pool = f"pool={{columns: {{source: {null}}}}}"
    given = parse_config([pool, f"sample={{paths: [{null}]}}"])
    loaded = config.load(merged(changed(pool__columns__source="kind"), {"pool": given["pool"]}))
    assert loaded.pool.columns.source is None
    found = refusal(merged(DEFAULTS, {"sample": given["sample"]}))
    assert found == "sample.paths.0: Input should be a valid string, not null"


@pytest.mark.parametrize("key", ["pool__columns__id", "pool__columns__text", "base__checkpoint"])
def test_an_empty_name_is_refused(key):
    """What `{id: }` on a command line is."""
    found = refusal(changed(**{key: ""}))
    assert found == f"{key.replace('__', '.')}: String should have at least 1 character, not ''"


# The key reference and the JSON schema


@pytest.mark.parametrize(
    ("path", "written"), [(reference.PAGE, reference.page), (reference.SCHEMA, reference.schema)]
)
def test_the_reference_and_the_schema_are_up_to_date(path, written):
    text = path.read_text()
    now = json.loads(text) if path.suffix == ".json" else text
    assert now == written(), "write it anew: python -m groupmates.settings.reference"


def test_every_key_and_section_is_described_in_sentences():
    schema = reference.schema()
    for kind, place in schema["$defs"].items():
        assert place["description"].endswith("."), kind
        for key, entry in place["properties"].items():
            assert entry.get("description", "." if "$ref" in entry else "").endswith("."), key


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("PoolColumns.id", "text or `null`"),
        ("Pool.paths", "`builtin` or list of texts"),
        ("Pool.max_bad_share", "number from 0 to 1"),
        ("Groups.sizes", "list of whole numbers above 0"),
        ("Optimizer.beta1", "number from 0 to below 1"),
        ("Materialise.format", "`same`, `parquet`, `open_lm` or `megatron`"),
        ("Plan.encoder", "`{hidden_size, layers, vocabulary_size}` or `null`"),
    ],
)
def test_the_reference_says_in_words_what_a_key_may_be(key, words):
    kinds = reference.schema()["$defs"]
    kind, field = key.split(".")
    assert reference.values(kinds[kind]["properties"][field], kinds) == words


def test_the_schema_is_one_of_2020_12_that_accepts_the_defaults_and_refuses_other_keys():
    schema = json.loads(reference.SCHEMA.read_text())
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(DEFAULTS)
    assert not validator.is_valid(changed(probe__rolouts=1))
    assert not validator.is_valid(changed(seed=-1))
