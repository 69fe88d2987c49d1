# Was the selection worth its compute? `snakemake frontier`: the models of `snakemake pretrain` by held-out
# loss, tasks, and what they took. Outside `rule all`. reads: pretrain/, core/, records of all jobs.
# writes: report/frontier.*.


# Tasks are told where core.pretrained asks them of the models.
ASKED = [
    artefact("core_predictions", lm=name, task=task)
    for name in core_pretrained()
    for task in CORE
]


rule frontier:
    input:
        trained_by_stage,
        ASKED,
    output:
        page=artefact("frontier"),
        tables=[artefact("frontier_table", format=kind) for kind in ("csv", "md")],
        tasks=[artefact("frontier_tasks")] if ASKED else [],
    log:
        logged("frontier"),
    resources:
        **asks(mem_mb=4000, runtime=30),
    params:
        settings=settings(
            "FrontierSettings", "frontier", "frontier_table", "frontier_tasks"
        ),
        inputs=all_inputs,
    shell:
        "{params.run} frontier --log {log:q} --job {params.job:q} --settings {params.settings:q}"
        " --inputs {params.inputs:q} --output {output.page:q}"
