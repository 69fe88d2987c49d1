# What the run will cost: `snakemake plan` prints it and writes plan.json and plan.txt. Outside
# `rule all`, and without declared outputs: it is made anew whenever it is asked for, as new rates
# may be known, and makes nothing else stale. reads: the configuration, sizes of what is there.
import json
from groupmates.settings import stages


rule plan:
    log:
        logged("plan"),
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        settings=settings("PlanSettings", "plan"),
        threads=given(json.dumps(stages.threads_of(workflow.rules))),
        output=artefact("plan"),
    shell:
        "{params.run} plan --log {log:q} --settings {params.settings:q}"
        " --stage-threads {params.threads:q} --output {params.output:q}"
