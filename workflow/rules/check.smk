# Every document is read once, before all else that could run: a broken line, or an id that occurs
# twice, shows at once. Nothing that is probed depends on it, so that a file that is added to the pool,
# or mended, does not probe again. reads: pool, tokenizer. writes: check/.

# A given tokenizer may know no character of a document; one that is trained here knows all bytes.
TOKENIZER = CONFIG.sample.tokenizer or CONFIG.base.checkpoint


rule check:
    input:
        pool=lambda wildcards: present([f.path for f in SHARDS[wildcards.shard]]),
        tokenizer=[
            f for f in folder_files(TOKENIZER) if Path(f).name.startswith("tokenizer")
        ],
    output:
        artefact("check"),
    log:
        logged("check_{shard}"),
    priority: 10
    resources:
        mem_mb=memory(4000),
        runtime=minutes(120),
    params:
        settings=settings("CheckSettings", "check"),
        pool=shard_files,
        root=given(POOL_ROOT),
        tokenizer=given(["--tokenizer", TOKENIZER] if TOKENIZER else []),
    shell:
        "workflow/run check --log {log:q} --job {params.job:q} --settings {params.settings:q}"
        " --pool {params.pool:q} --root {params.root:q} {params.tokenizer:q} --output {output:q}"


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
        mem_mb=memory(4000),
        runtime=minutes(30),
    params:
        settings=settings("CheckPoolSettings", "files"),
        check=listed("check"),
        root=given(POOL_ROOT),
    shell:
        "workflow/run check-pool --log {log:q} --job {params.job:q} --settings {params.settings:q}"
        " --check {params.check:q} --root {params.root:q} --output {output.files:q}"
        " --rejects {output.rejects:q}"
