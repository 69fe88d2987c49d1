# Every document is read once, before all else that could run: a broken line, or an id that occurs
# twice, shows at once. Nothing that is probed depends on it, so that a file that is added to the pool,
# or mended, does not probe again. reads: pool. writes: check/.


rule check:
    input:
        corpus_of_shard,
    output:
        artefact("check"),
    log:
        logged("check_{shard}"),
    priority: 10
    resources:
        **asks(mem_mb=4000, runtime=120),
    params:
        settings=settings("CheckSettings", "check"),
        pool=pool_of_shard,
        seen=pool_seen,
    shell:
        "{RUN} check --log {log:q} --job {params.job:q} --settings {params.settings:q}"
        " --pool {params.pool:q} --output {output:q}"


rule check_pool:
    input:
        check=[artefact("check", shard=shard) for shard in SHARDS],
    output:
        files=artefact("files"),
        rejects=artefact("rejects"),
    log:
        logged("check_pool"),
    priority: 10
    resources:
        **asks(mem_mb=4000, runtime=30),
    params:
        settings=settings("CheckPoolSettings", "files"),
        check=listed("check"),
        pool=unrecorded(pool_argument(POOL)),
    shell:
        "{RUN} check-pool --log {log:q} --job {params.job:q} --settings {params.settings:q}"
        " --pool {params.pool:q} --check {params.check:q} --output {output.files:q}"
        " --rejects {output.rejects:q}"
