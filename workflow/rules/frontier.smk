# Was the selection worth its compute? `snakemake frontier`: the models of `snakemake pretrain` by held-out
# loss, tasks, and what they took. Outside `rule all`. reads: pretrain/, core/, records of all jobs.
# writes: report/frontier.*.


@plainly()
def trained_by_stage(wildcards):
    """What is read of every training, of all its stages; of models their shape alone."""
    CONFIG.pretrain.check_methods()
    return [
        artefact(name, line=line, method=method, seed=seed)
        for name in ("pretrain_curve", "pretrain_examples", "pretrained")
        for line in [FIRST, *lines.later(CONFIG)]
        for method in CONFIG.pretrain.methods
        for seed in range(CONFIG.pretrain.seeds)
        if line == FIRST or lines.method_of(line) == method
    ]


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
        settings=settings("FrontierSettings", "frontier", "frontier_table"),
        inputs=all_inputs,
    shell:
        "{params.run} frontier --log {log:q} --job {params.job:q} --settings {params.settings:q}"
        " --inputs {params.inputs:q} --output {output.page:q}"
