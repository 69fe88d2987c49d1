# Train the base model on every selection, equal tokens and schedule, and compare the held-out loss.
# reads: base/, sample/, select/, pool: whatever the format of the dataset. writes: evaluate/.


rule evaluate:
    input:
        base=artefact("base"),
        tokenizer=artefact("tokenizer"),
        reference=artefact("reference"),
        select=selection,
        corpus=made_here([file.path for file in POOL]),
    output:
        curve=artefact("curve"),
        examples=artefact("example_losses"),
    log:
        logged("evaluate_{method}_{seed}"),
    resources:
        **asks(mem_mb=16000, runtime=240, gpu=1),
    params:
        settings=settings("EvaluateSettings", "curve", "example_losses"),
        select=listed("select"),
        pool=unrecorded(pool_argument(POOL)),
        compile=compiled("evaluate"),
        srun=srun,
        processes=processes,
    shell:
        "{params.srun} {params.run} evaluate {params.processes} --log {log:q} --job {params.job:q}"
        " --threads {threads} --settings {params.settings:q} --base {input.base:q}"
        " --tokenizer {input.tokenizer:q} --reference {input.reference:q}"
        " --select {params.select:q} --pool {params.pool:q}"
        " --number {wildcards.seed} --curve {output.curve:q} --examples {output.examples:q}"
        " --compile {params.compile}"


CURVES = expand(artefact("curve"), method=METHODS, seed=SEEDS)
EXAMPLES = expand(artefact("example_losses"), method=METHODS, seed=SEEDS)
SELECTIONS = expand(artefact("select", line=FIRST), method=METHODS, shard=list(SHARDS))


rule summarise:
    input:
        CURVES,
        EXAMPLES,
        SELECTIONS,
        SCORES,
    output:
        artefact("summary"),
    log:
        logged("summarise"),
    resources:
        **asks(mem_mb=4000, runtime=30),
    params:
        settings=settings("SummarySettings", "summary"),
        inputs=all_inputs,
    shell:
        "{params.run} summarise --log {log:q} --job {params.job:q} --settings {params.settings:q}"
        " --inputs {params.inputs:q} --output {output:q}"
