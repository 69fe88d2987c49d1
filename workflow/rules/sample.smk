# One pass over the whole pool: checks every document, draws what is probed and warmed up on.
# reads: pool, reference, checkpoint's tokenizer. writes: sample/.


rule sample:
    input:
        pool=present([file.path for file in POOL]),
        reference=present(REFERENCE),
        evaluation=present(REFERENCE_EVALUATION),
    output:
        tokenizer=directory(artefact("tokenizer")),
        files=artefact("files"),
        probe_pool=artefact("probe_pool"),
        training_pool=artefact("training_pool"),
        reference=artefact("reference"),
    params:
        settings=settings("SampleSettings", "probe_pool"),
        pool=POOL_PATTERNS,
        reference=REFERENCE,
        evaluation=REFERENCE_EVALUATION,
    log:
        logged("sample"),
    benchmark:
        timed("sample")
    threads: 1
    resources:
        mem_mb=8000,
        runtime=240,
    shell:
        "{STAGE} sample --log {log:q} --settings {params.settings:q}"
        " --pool {params.pool:q} --reference {params.reference:q} --evaluation {params.evaluation:q}"
        " --tokenizer {output.tokenizer:q} --files {output.files:q} --probe-pool {output.probe_pool:q}"
        " --training-pool {output.training_pool:q} --reference-output {output.reference:q}"
