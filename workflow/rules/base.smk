# The checkpoint to probe, with its AdamW state: the user's, or a small one made from scratch.
# reads: sample/, base.checkpoint. writes: base/.


rule base:
    input:
        tokenizer=artefact("tokenizer"),
        training_pool=artefact("training_pool"),
    output:
        directory(artefact("base")),
    log:
        logged("base"),
    threads: 2
    resources:
        **asks(mem_mb=16000, runtime=240, gpu=1),
    params:
        settings=settings("BaseSettings", "base"),
        seen=seen(folder_files(CONFIG.base.checkpoint)),
        compile=compiled("base"),
        srun=srun,
        processes=processes,
    shell:
        "{params.srun} {params.run} base {params.processes} --log {log:q} --job {params.job:q}"
        " --threads {threads} --settings {params.settings:q} --tokenizer {input.tokenizer:q}"
        " --training-pool {input.training_pool:q} --compile {params.compile}"
        " --output {output:q}"
