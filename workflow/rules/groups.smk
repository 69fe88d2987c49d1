# Whether predicted group influence is true. Sets of documents are trained on as a whole. What that does
# to the reference loss is compared with what the final model says of them. The report alone asks for
# it, where a method selects by group influence. reads: base/, sample/, probe/{round}/rollouts,
# fit/final. writes: probe/groups/, groups/.


rule plan_groups:
    input:
        probe_pool=artefact("probe_pool"),
        random=artefact("rollouts", line=FIRST, round="random"),
        bootstrap=[
            artefact("rollouts", line=FIRST, round=round) for round in ROUNDS[1:]
        ],
        first_order=first_ordered(FIRST),
        model=artefact("fit", line=FIRST, model="final"),
        accepted=artefact("accept", line=FIRST, model="final"),
    output:
        table=artefact("group_sets"),
        embeddings=embeddings_of("group_sets"),
    log:
        logged("plan_groups"),
    resources:
        **asks(mem_mb=16000, runtime=120, gpu=1),
    params:
        settings=settings("GroupPlanSettings", "group_sets"),
    shell:
        "{params.run} plan-groups --log {log:q} --job {params.job:q} --threads {threads}"
        " --settings {params.settings:q} --probe-pool {input.probe_pool:q}"
        " --random {input.random:q} --bootstrap {input.bootstrap:q}"
        " --first-order {input.first_order:q} --model {input.model:q}"
        " --output {output.table:q}"


rule probe_groups:
    input:
        base=artefact("base"),
        probe_pool=artefact("probe_pool"),
        reference=artefact("reference"),
        sets=artefact("group_sets"),
    output:
        artefact("group_probe"),
    log:
        logged("probe_groups_{part}"),
    resources:
        **asks(mem_mb=16000, runtime=240, gpu=1),
    params:
        settings=settings("ProbeSettings", "group_probe"),
        parts=len(GROUP_PARTS),
        compile=compiled("probe"),
    shell:
        "{params.run} probe-groups --log {log:q} --job {params.job:q} --threads {threads}"
        " --settings {params.settings:q} --base {input.base:q} --probe-pool {input.probe_pool:q}"
        " --reference {input.reference:q} --sets {input.sets:q} --part {wildcards.part}"
        " --parts {params.parts} --compile {params.compile} --output {output:q}"


rule groups:
    input:
        sets=artefact("group_sets"),
        probed=[artefact("group_probe", part=part) for part in GROUP_PARTS],
        model=artefact("fit", line=FIRST, model="final"),
    output:
        artefact("groups"),
    log:
        logged("groups"),
    resources:
        **asks(mem_mb=2000, runtime=30),
    params:
        settings=settings("GroupsSettings", "groups"),
    shell:
        "{params.run} groups --log {log:q} --job {params.job:q} --settings {params.settings:q}"
        " --sets {input.sets:q} --probed {input.probed:q} --model {input.model:q}"
        " --output {output:q}"
