# The relational influence model: initial on the random round, final on both rounds.
# reads: base/, sample/, probe/. writes: fit/{initial,final}/.


rule fit:
    input:
        base=artefact("base"),
        tokenizer=artefact("tokenizer"),
        probe_pool=artefact("probe_pool"),
        random=probed("random"),
        bootstrap=bootstrapped,
    output:
        directory(artefact("fit")),
    log:
        logged("fit_{model}"),
    benchmark:
        timed("fit/{model}")
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=16000,
        runtime=240,
    params:
        settings=settings("FitSettings", "fit"),
    shell:
        "workflow/run fit --log {log:q} --threads {threads} --settings {params.settings:q}"
        " --base {input.base:q} --tokenizer {input.tokenizer:q} --probe-pool {input.probe_pool:q}"
        " --random {input.random:q} --bootstrap {input.bootstrap:q} --output {output:q}"
