# What is probed and warmed up on, drawn from the pool or from some of its files; the reference set,
# tokenised and split. reads: pool, reference, tokenizer. writes: sample/.


rule sample:
    input:
        made_here([file.path for file in SAMPLED]),
    output:
        tokenizer=directory(artefact("tokenizer")),
        probe_pool=artefact("probe_pool"),
        training_pool=artefact("training_pool"),
    log:
        logged("sample"),
    resources:
        **asks(mem_mb=8000, runtime=240),
    params:
        settings=settings("SampleSettings", "tokenizer", "probe_pool", "training_pool"),
        pool=unrecorded(pool_argument(SAMPLED)),
        names=given(listing.compact([file.name for file in SAMPLED])),
        seen=seen([file.path for file in SAMPLED]),
        tokenizer=seen(folder_files(CONFIG.sample.tokenizer or CONFIG.base.checkpoint)),
    shell:
        "{params.run} sample --log {log:q} --job {params.job:q} --settings {params.settings:q}"
        " --pool {params.pool:q} --tokenizer {output.tokenizer:q}"
        " --probe-pool {output.probe_pool:q} --training-pool {output.training_pool:q}"


rule reference:
    input:
        made_here(REFERENCE),
        tokenizer=artefact("tokenizer"),
    output:
        artefact("reference"),
    log:
        logged("reference"),
    priority: 10  # a bad example shows before the base model is made
    resources:
        **asks(mem_mb=4000, runtime=30),
    params:
        settings=settings("ReferenceSettings", "reference"),
        reference=unrecorded(listing.compact(REFERENCE)),
        evaluation=unrecorded(listing.compact(REFERENCE_EVALUATION)),
        seen=seen([*REFERENCE, *REFERENCE_EVALUATION]),
    shell:
        "{params.run} reference --log {log:q} --job {params.job:q} --settings {params.settings:q}"
        " --reference {params.reference:q} --evaluation {params.evaluation:q}"
        " --tokenizer {input.tokenizer:q} --output {output:q}"
