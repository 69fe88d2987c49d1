# Every document is read once, before all else that could run: a broken line, or an id that occurs
# twice, shows at once. Nothing that is probed depends on it, so that a file that is added to the pool
# does not probe again. reads: pool, tokenizer. writes: check/.

# A given tokenizer may know no character of a document; one that is trained here knows all bytes.
TOKENIZER = CONFIG.sample.tokenizer or CONFIG.base.checkpoint


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
        tokenizer=given(["--tokenizer", TOKENIZER] if TOKENIZER else []),
        tokenizer_seen=seen(tokenizer_files(TOKENIZER)),
    shell:
        "{params.run} check --log {log:q} --job {params.job:q} --settings {params.settings:q}"
        " --pool {params.pool:q} {params.tokenizer:q} --output {output:q}"


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
        settings=settings("CheckPoolSettings", "files", "rejects"),
        check=listed("check"),
        pool=unrecorded(pool_argument(POOL)),
    shell:
        "{params.run} check-pool --log {log:q} --job {params.job:q} --settings {params.settings:q}"
        " --pool {params.pool:q} --check {params.check:q} --output {output.files:q}"
        " --rejects {output.rejects:q}"
