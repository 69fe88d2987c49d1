# Each method puts the documents in an order of preference; `take` takes them until the budget is met.
# What a selector reads, depends on and asks for stands in its class: groupmates/settings/selectors.py.
# reads: what `needs` names there, score/, cluster/. writes: prepare/{method}/, order/{method}/, select/{method}/.


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
        "{RUN} {params.stage} --log {log:q} --job {params.job:q} --settings {params.settings:q}"
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
        "{RUN} {params.stage} --log {log:q} --job {params.job:q} --settings {params.settings:q}"
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
        "{RUN} take --log {log:q} --job {params.job:q} --settings {params.settings:q}"
        " --method {wildcards.method}"
        " --orders {input.orders:q} --score {params.score:q} --cluster {params.cluster:q}"
        " --output {params.output:q}"
