# Each method puts the documents in an order of preference; `take` takes them until the budget is met.
# What a selector reads, depends on and asks for stands in its class: groupmates/settings/selectors.py.
# reads: what `needs` names there, score/, cluster/. writes: prepare/{method}/, order/{method}/, select/{method}/.
import shlex

STEPS = {method: per_stage.steps_of(CONFIG, method) for method in METHODS}


def methods_of(name, gpu):
    """A pattern of the methods that have a step, with or without a GPU."""
    found = [
        m for m, steps in STEPS.items() if name in steps and steps[name].gpu == gpu
    ]
    return "|".join(found) or "(?!)"


def needed(name):
    """The inputs of a step's jobs, by the argument that names each."""
    return lambda wildcards: {
        need.argument: files_of(need, name, wildcards)
        for need in STEPS[wildcards.method][name].needs()
    }


def files_of(need, name, wildcards):
    if need.artefact is None:
        return user_files(need.files, need.key)
    if need == selectors.POOL:
        return present(pool_files(name, wildcards))
    path = artefact(need.artefact, method=wildcards.method, model=need.model)
    return [path.replace("{shard}", s) for s in SHARDS] if "{shard}" in path else path


def pool_files(name, wildcards):
    """The pool: of a job that has one scoring shard, the files of that."""
    of_shard = STEPS[wildcards.method][name].shares == "shards"
    found = SHARDS[list(SHARDS)[int(wildcards.partition)]] if of_shard else POOL
    return [file.path for file in found]


def user_files(patterns, key):
    try:
        found = listing.expand(list(patterns), key)
        if missing := [path for path in found if not os.path.exists(path)]:
            raise UserError(
                expected="files of the user",
                found=f"no file {missing[0]}",
                where=key,
                todo="correct the path",
            )
        return found
    except UserError as error:
        raise WorkflowError(str(error)) from None


def arguments(name):
    """The part of the command line about inputs, the job's number, threads and limits.

    Not recorded: inputs are by themselves, and what only limits makes nothing stale.
    """

    def found(wildcards, input, threads):
        step = STEPS[wildcards.method][name]
        words = dict(input.items())
        if "pool" in words:
            words |= {"pool": pool_files(name, wildcards), "root": POOL_ROOT}
        if step.gpu:
            words["threads"] = threads
        if step.shares:
            words["partition"] = int(wildcards.partition)
            words["partitions"] = partitions(wildcards)
        if name == "prepare":
            section = CONFIG.select.method(wildcards.method)
            words |= {limit: getattr(section, limit) for limit in section.limits}
        return " ".join(
            f"--{argument.replace('_', '-')} {spelled(value)}"
            for argument, value in words.items()
        )

    return found


def spelled(value):
    several = not isinstance(value, (str, int))
    return shlex.join(listing.compact(list(value)) if several else [str(value)])


def partitions(wildcards):
    """Jobs that share a method's order."""
    shared = {"clusters": CONFIG.select.partitions, "shards": len(SHARDS)}
    return shared.get(STEPS[wildcards.method]["order"].shares, 1)


def of_step(name, what):
    """What the class of a step says."""
    return lambda wildcards: getattr(STEPS[wildcards.method][name], what)


def growing(name, what, asked):
    """What a step asks for, `asked` as memory or minutes."""

    def found(wildcards, attempt):
        return asked(of_step(name, what)(wildcards))(wildcards, attempt)

    return found


def settings_of(name):
    def found(wildcards):
        step = STEPS[wildcards.method][name]
        return per_stage.as_param(step, *step.writes)

    return found


rule prepare:
    input:
        unpack(needed("prepare")),
    output:
        directory(artefact("prepared")),
    log:
        logged("prepare_{method}"),
    wildcard_constraints:
        method=methods_of("prepare", gpu=False),
    priority: 10  # some refuse what is too much, before the expensive stages
    threads: of_step("prepare", "threads")
    resources:
        mem_mb=growing("prepare", "memory", memory),
        runtime=growing("prepare", "minutes", minutes),
    params:
        stage=of_step("prepare", "stage"),
        settings=settings_of("prepare"),
        arguments=arguments("prepare"),
    shell:
        "workflow/run {params.stage} --log {log:q} --job {params.job:q} --settings {params.settings:q}"
        " {params.arguments} --output {output:q}"


use rule prepare as prepare_gpu with:
    wildcard_constraints:
        method=methods_of("prepare", gpu=True),
    resources:
        mem_mb=growing("prepare", "memory", memory),
        runtime=growing("prepare", "minutes", minutes),
        gpu=1,


rule order:
    input:
        unpack(needed("order")),
    output:
        artefact("order"),
    log:
        logged("order_{method}_{partition}"),
    wildcard_constraints:
        method=methods_of("order", gpu=False),
    threads: of_step("order", "threads")
    resources:
        mem_mb=growing("order", "memory", memory),
        runtime=growing("order", "minutes", minutes),
    params:
        stage=of_step("order", "stage"),
        settings=settings_of("order"),
        partitions=partitions,  # another number makes all of them stale
        arguments=arguments("order"),
    shell:
        "workflow/run {params.stage} --log {log:q} --job {params.job:q} --settings {params.settings:q}"
        " {params.arguments} --output {output:q}"


use rule order as order_gpu with:
    wildcard_constraints:
        method=methods_of("order", gpu=True),
    priority: 10  # some have steps that follow each other: the longest job of a run
    resources:
        mem_mb=growing("order", "memory", memory),
        runtime=growing("order", "minutes", minutes),
        gpu=1,


rule take:
    input:
        orders=lambda wildcards: [
            artefact("order", method=wildcards.method, partition=f"{i:05d}")
            for i in range(partitions(wildcards))
        ],
        score=SCORES,
        cluster=lambda wildcards: (
            SEMANTIC_CLUSTERS if wildcards.method in SEMANTIC else CLUSTERS
        ),
    output:
        [artefact("select", shard=shard) for shard in SHARDS],
    log:
        logged("take_{method}"),
    resources:
        mem_mb=memory(16000),
        runtime=minutes(60),
    params:
        settings=settings("TakeSettings", "select"),
        score=listed("score"),
        cluster=listed("cluster"),
        output=lambda wildcards, output: listing.compact(list(output)),
    shell:
        "workflow/run take --log {log:q} --job {params.job:q} --settings {params.settings:q}"
        " --method {wildcards.method}"
        " --orders {input.orders:q} --score {params.score:q} --cluster {params.cluster:q}"
        " --output {params.output:q}"
