# One self-contained page: what was selected from what, with what effect, and how far to trust it.
# reads: everything above. writes: report.html.


rule report:
    input:
        random=probed("random"),
        bootstrap=probed("bootstrap") if "bootstrap" in ROUNDS else [],
        initial=artefact("fit", model="initial" if "bootstrap" in ROUNDS else "final"),
        final=artefact("fit", model="final"),
        score=SCORES,
        cluster=CLUSTERS,
        select=SELECTIONS,
        curves=CURVES,
        summary=artefact("summary"),
    output:
        artefact("report"),
    log:
        logged("report"),
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory(8000),
        runtime=minutes(60),
    params:
        settings=settings("ReportSettings", "report"),
        score=listed("score"),
        cluster=listed("cluster"),
        select=listed("select"),
        benchmarks=f"results/{CONFIG.run}/benchmarks",
        logs=f"results/{CONFIG.run}/logs",
        plan=artefact("plan"),  # no input: the report does without
    shell:
        "workflow/run report --log {log:q} --settings {params.settings:q}"
        " --random {input.random:q} --bootstrap {input.bootstrap:q} --initial {input.initial:q}"
        " --final {input.final:q} --score {params.score:q} --cluster {params.cluster:q}"
        " --select {params.select:q} --curves {input.curves:q} --summary {input.summary:q}"
        " --benchmarks {params.benchmarks:q} --logs {params.logs:q} --plan {params.plan:q}"
        " --output {output:q}"
