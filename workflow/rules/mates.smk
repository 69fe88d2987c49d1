# MATES: single steps are probed, a model is fitted to them (rules probe and fit), and the pool is
# scored by it. reads: sample/, base/. writes: probe/one_step/, fit/one_step/, score/one_step/,
# order/{method}/.


rule plan_one_step:
    input:
        probe_pool=artefact("probe_pool"),
    output:
        artefact("rollouts", round="one_step"),
    log:
        logged("plan_one_step"),
    resources:
        mem_mb=memory(4000),
        runtime=minutes(30),
    params:
        settings=settings("OneStepPlanSettings", "rollouts"),
    shell:
        "workflow/run plan-one-step --log {log:q} --job {params.job:q}"
        " --settings {params.settings:q} --probe-pool {input.probe_pool:q} --output {output:q}"


# The pool by another model than the final one.
use rule score as score_by with:
    input:
        pool=lambda wildcards: present([f.path for f in SHARDS[wildcards.shard]]),
        check=artefact("check"),
        model=artefact("fit"),
    output:
        artefact("score_by"),
    log:
        logged("score_{model}_{shard}"),


rule order_mates:
    input:
        score=SCORES,
        scored_by=scores_by("one_step"),
    output:
        artefact("order"),
    log:
        logged("order_{method}_{partition}"),
    wildcard_constraints:
        method=methods_of("mates"),
    resources:
        mem_mb=memory(8000),
        runtime=minutes(60),
    params:
        settings=settings_of_method("MatesSettings", "order"),
        score=listed("score"),
        scored_by=listed("scored_by"),
    shell:
        "workflow/run order-mates --log {log:q} --job {params.job:q} --settings {params.settings:q}"
        " --score {params.score:q} --scored-by {params.scored_by:q} --output {output:q}"
