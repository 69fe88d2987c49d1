# Each method puts the documents in an order of preference; one rule takes them until the budget is
# met. What mates and quality need beside that is in their own files.
# reads: score/, cluster/, fit/final, score/semantic/, cluster/semantic/. writes: order/{method}/, select/{method}/.
rule order_group_mates:
    input:
        score=SCORES,
        cluster=clusters_of,
        model=lambda wildcards: artefact("fit", model=model_of(wildcards)),
        scored_by=scored_by,
    output:
        artefact("order"),
    log:
        logged("order_{method}_{partition}"),
    wildcard_constraints:
        method=methods_of("group_mates"),
    threads: 2
    resources:
        mem_mb=memory(32000),
        runtime=minutes(240),
    params:
        settings=settings_of_method("GroupMatesSettings", "order"),
        score=listed("score"),
        cluster=listed("cluster"),
        scored_by=listed("scored_by"),
        partitions=CONFIG.select.partitions,
    shell:
        "workflow/run order-group-mates --log {log:q} --job {params.job:q}"
        " --settings {params.settings:q} --score {params.score:q} --cluster {params.cluster:q}"
        " --model {input.model:q} --scored-by {params.scored_by:q}"
        " --partition {wildcards.partition} --partitions {params.partitions} --output {output:q}"


rule order_semdedup:
    input:
        score=SCORES,
        cluster=clusters_of,
        centroids=centroids_of,
        semantic=meant,
    output:
        artefact("order"),
    log:
        logged("order_{method}_{partition}"),
    wildcard_constraints:
        method=methods_of("semdedup"),
    threads: 2
    resources:
        mem_mb=memory(32000),
        runtime=minutes(240),
    params:
        settings=settings_of_method("SemDedupSettings", "order"),
        score=listed("score"),
        cluster=listed("cluster"),
        semantic=listed("semantic"),
        partitions=CONFIG.select.partitions,
    shell:
        "workflow/run order-semdedup --log {log:q} --job {params.job:q}"
        " --settings {params.settings:q} --score {params.score:q} --cluster {params.cluster:q}"
        " --centroids {input.centroids:q} --semantic {params.semantic:q}"
        " --partition {wildcards.partition} --partitions {params.partitions} --output {output:q}"


rule order_random:
    input:
        score=SCORES,
    output:
        artefact("order", method="random", partition="00000"),
    log:
        logged("order_random"),
    resources:
        mem_mb=memory(8000),
        runtime=minutes(60),
    params:
        settings=settings("RandomSettings", "order"),
        score=listed("score"),
    shell:
        "workflow/run order-random --log {log:q} --job {params.job:q}"
        " --settings {params.settings:q} --score {params.score:q} --output {output:q}"


rule take:
    input:
        orders=orders,
        score=SCORES,
        cluster=clusters_of,
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
        " --method {wildcards.method} --orders {input.orders:q} --score {params.score:q}"
        " --cluster {params.cluster:q} --output {params.output:q}"
