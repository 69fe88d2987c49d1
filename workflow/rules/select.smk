# Each method puts the documents in an order of preference; `take` takes them until the budget is met.
# What a selector reads, depends on and asks for stands in its class: groupmates/settings/selectors.py.
# reads: what `needs` names there, score/, cluster/. writes: prepare/{method}/, order/{method}/, select/{method}/.
from groupmates.selectors.step_jobs import StepJobs

PREPARE, ORDER = (
    StepJobs(step, CONFIG, SHARDS, read_in, made_here) for step in ("prepare", "order")
)


rule prepare:
    input:
        unpack(plainly()(PREPARE.inputs)),
    output:
        directory(artefact("prepared")),
    log:
        logged("prepare_{method}", LINE),
    wildcard_constraints:
        method=PREPARE.methods(gpu=False),
    priority: 10  # some refuse what is too much, before the expensive stages
    threads: PREPARE.of("threads")
    resources:
        **PREPARE.resources(memory, minutes),
    params:
        stage=PREPARE.of("stage"),
        settings=PREPARE.settings,
        seen=plainly()(PREPARE.seen),
        arguments=plainly()(PREPARE.arguments),
    shell:
        "{params.run} {params.stage} --log {log:q} --job {params.job:q} --threads {threads}"
        " --settings {params.settings:q} {params.arguments} --output {output:q}"


use rule prepare as prepare_gpu with:
    wildcard_constraints:
        method=PREPARE.methods(gpu=True),
    resources:
        **PREPARE.resources(memory, minutes),
        gpu=1,


rule order:
    input:
        unpack(plainly()(ORDER.inputs)),
    output:
        artefact("order"),
    log:
        logged("order_{method}_{partition}", LINE),
    wildcard_constraints:
        method=ORDER.methods(gpu=False),
    priority: 10  # the trainings wait for it; one of several threads would wait for the others' cores
    threads: ORDER.of("threads")
    resources:
        **ORDER.resources(memory, minutes),
    params:
        stage=ORDER.of("stage"),
        settings=ORDER.settings,
        partitions=ORDER.partitions,  # another number makes all of them stale
        arguments=ORDER.arguments,
    shell:
        "{params.run} {params.stage} --log {log:q} --job {params.job:q} --threads {threads}"
        " --settings {params.settings:q} {params.arguments} --output {output:q}"


use rule order as order_gpu with:
    wildcard_constraints:
        method=ORDER.methods(gpu=True),
    resources:
        **ORDER.resources(memory, minutes),
        gpu=1,


rule take:
    input:
        orders=orders_to_take,
        score=scores_to_take,
        cluster=clusters_to_take,
        rejects=artefact("rejects"),
        overlaps=OVERLAPS if CONFIG.decontaminate.drop else [],
        consumed=consumed,
    output:
        [artefact("select", shard=shard) for shard in SHARDS],
    log:
        logged("take_{method}", LINE),
    resources:
        **asks(mem_mb=16000, runtime=60),
    params:
        settings=settings_of_stage("TakeSettings", "select"),
        score=listed("score"),
        cluster=listed("cluster"),
        overlaps=lambda wildcards, input, resources: listing.compact(input.overlaps),
        output=lambda wildcards, output: listing.compact(list(output)),
    shell:
        "{params.run} take --log {log:q} --job {params.job:q} --settings {params.settings:q}"
        " --method {wildcards.method} --orders {input.orders:q} --score {params.score:q}"
        " --cluster {params.cluster:q} --rejects {input.rejects:q}"
        " --overlaps {params.overlaps:q} --consumed {input.consumed:q}"
        " --output {params.output:q}"
