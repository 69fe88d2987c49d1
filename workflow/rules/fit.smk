# The relational influence model: initial on the random round, final on both rounds. With
# probe.labels: first_order, final on those labels, and the random round for its figures.
# Where a selector goes by single steps (MATES), also a model of those: one_step.
# A floor on its held-out correlation stops the run. reads: base/, sample/, probe/.
# writes: fit/{initial,final}/, accept/.


rule fit:
    input:
        base=base_of,
        tokenizer=artefact("tokenizer"),
        probe_pool=artefact("probe_pool"),
        probes=probes_of_fit,
        bootstrap=bootstrap_of_fit,
        first_order=first_order_of_fit,
    output:
        directory(artefact("fit")),
    log:
        logged("fit_{model}", LINE),
    resources:
        **asks(mem_mb=16000, runtime=240, gpu=1),
    params:
        settings=lambda wildcards: settings(
            "OneStepFitSettings" if wildcards.model == "one_step" else "FitSettings",
            "fit",
            "heldout",
        )(wildcards),
        seen=seen(folder_files(CONFIG.fit.encoder.name)),
        srun=srun,
        processes=processes,
    shell:
        "{params.srun} {params.run} fit {params.processes} --log {log:q} --job {params.job:q}"
        " --threads {threads} --settings {params.settings:q} --base {input.base:q}"
        " --tokenizer {input.tokenizer:q} --probe-pool {input.probe_pool:q}"
        " --probes {input.probes:q} --bootstrap {input.bootstrap:q}"
        " --first-order {input.first_order:q} --output {output:q}"


rule accept:
    input:
        artefact("fit"),
    output:
        artefact("accept"),
    log:
        logged("accept_{model}", LINE),
    resources:
        **asks(mem_mb=1000, runtime=10),
    params:
        settings=settings("AcceptSettings", "accept"),
    shell:
        "{params.run} accept --log {log:q} --job {params.job:q} --settings {params.settings:q}"
        " --model {input:q} --output {output:q}"
