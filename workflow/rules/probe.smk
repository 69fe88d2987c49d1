# Oracle influences by rollouts of single training steps: a random round, then one that the initial
# model bootstraps. Where a selector goes by single steps (MATES), a round of those: one_step.
# With probe.labels: first_order, influences to first order, and the random round to audit them.
# reads: base/, sample/, for the second round fit/initial. writes: probe/{round}/, probe/first_order/.


rule plan_random:
    input:
        probe_pool=artefact("probe_pool"),
    output:
        artefact("rollouts", round="random"),
    log:
        logged("plan_random", LINE),
    resources:
        **asks(mem_mb=4000, runtime=30),
    params:
        settings=settings("RandomPlanSettings", "rollouts"),
    shell:
        "{params.run} plan-random --log {log:q} --job {params.job:q} --settings {params.settings:q}"
        " --probe-pool {input.probe_pool:q} --output {output:q}"


rule plan_one_step:
    input:
        probe_pool=artefact("probe_pool"),
    output:
        artefact("rollouts", round="one_step"),
    log:
        logged("plan_one_step", LINE),
    resources:
        **asks(mem_mb=4000, runtime=30),
    params:
        settings=settings("OneStepPlanSettings", "rollouts"),
    shell:
        "{params.run} plan-one-step --log {log:q} --job {params.job:q} --settings {params.settings:q}"
        " --probe-pool {input.probe_pool:q} --output {output:q}"


rule plan_bootstrap:
    input:
        probe_pool=artefact("probe_pool"),
        model=artefact("fit", model="initial"),
        accepted=artefact("accept", model="initial"),
    output:
        artefact("rollouts", round="bootstrap"),
    log:
        logged("plan_bootstrap", LINE),
    threads: 2
    resources:
        **asks(mem_mb=16000, runtime=720, gpu=1),
    params:
        settings=settings("BootstrapPlanSettings", "rollouts"),
    shell:
        "{params.run} plan-bootstrap --log {log:q} --job {params.job:q} --threads {threads}"
        " --settings {params.settings:q} --probe-pool {input.probe_pool:q} --model {input.model:q}"
        " --output {output:q}"


rule probe:
    input:
        base=base_of,
        probe_pool=artefact("probe_pool"),
        reference=artefact("reference"),
        rollouts=artefact("rollouts"),
    output:
        artefact("probe"),
    log:
        logged("probe_{round}_{part}", LINE),
    resources:
        **asks(mem_mb=16000, runtime=240, gpu=1),
    params:
        settings=settings("ProbeSettings", "probe"),
        parts=len(PARTS),
        compile=compiled("probe"),
    shell:
        "{params.run} probe --log {log:q} --job {params.job:q} --threads {threads}"
        " --settings {params.settings:q} --base {input.base:q} --probe-pool {input.probe_pool:q}"
        " --reference {input.reference:q} --rollouts {input.rollouts:q} --part {wildcards.part}"
        " --parts {params.parts} --compile {params.compile} --output {output:q}"


rule first_order:
    input:
        base=base_of,
        probe_pool=artefact("probe_pool"),
        reference=artefact("reference"),
    output:
        artefact("first_order"),
    log:
        logged("first_order_{part}", LINE),
    resources:
        **asks(mem_mb=16000, runtime=120, gpu=1),
    params:
        settings=settings("ProbeSettings", "first_order"),
        parts=len(PARTS),
    shell:
        "{params.run} first-order --log {log:q} --job {params.job:q} --threads {threads}"
        " --settings {params.settings:q} --base {input.base:q} --probe-pool {input.probe_pool:q}"
        " --reference {input.reference:q} --part {wildcards.part} --parts {params.parts}"
        " --output {output:q}"
