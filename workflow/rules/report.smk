# One self-contained page: what was selected from what, with what effect, and how far to trust it; its
# figures also reach `snakemake --report`, with the captions of workflow/report/.
# reads: everything above, and texts of the pool where it still is. writes: report.html, report/.
FIGURES = {  # name -> its place in snakemake's report
    "gap": "1. Effect",
    "differences": "1. Effect",
    "loss": "1. Effect",
    "times": "2. Pipeline",
    "timeline": "2. Pipeline",
    "labels": "3. Influence model",
    "positions": "3. Influence model",
    "predictions-initial": "3. Influence model",
    "predictions-final": "3. Influence model",
    "calibration": "3. Influence model",
    "groups": "3. Influence model",
    "map": "4. Selection",
    "clusters": "4. Selection",
    "sources": "4. Selection",
    "lengths": "4. Selection",
    "resemblances": "4. Selection",
}
if "bootstrap" not in ROUNDS:
    FIGURES.pop("predictions-initial")
if not GROUP_PARTS:
    FIGURES.pop("groups")


rule report:
    input:
        random=probed("random"),
        bootstrap=probed("bootstrap") if "bootstrap" in ROUNDS else [],
        initial=artefact("fit", model="initial" if "bootstrap" in ROUNDS else "final"),
        final=artefact("fit", model="final"),
        groups=artefact("groups") if GROUP_PARTS else [],
        score=SCORES,
        cluster=CLUSTERS,
        centroids=artefact("centroids"),
        semantic=SEMANTIC_SCORES if SEMANTIC else [],
        semantic_cluster=SEMANTIC_CLUSTERS if SEMANTIC else [],
        semantic_centroids=artefact("semantic_centroids") if SEMANTIC else [],
        select=SELECTIONS,
        curves=CURVES,
        summary=artefact("summary"),
    output:
        page=report(
            artefact("report"),
            caption="../report/page.rst",
            category="0. The report",
            labels={"figure": "page"},
        ),
        figures=[
            report(
                artefact("figure", figure=name),
                caption=f"../report/{name}.rst",
                category=category,
                labels={"figure": name},
            )
            for name, category in FIGURES.items()
        ],
        tables=[artefact("comparison", format=kind) for kind in ("csv", "md")],
    log:
        logged("report"),
    threads: 1
    resources:
        mem_mb=memory(8000),
        runtime=minutes(120),
    params:
        settings=settings("ReportSettings", "report"),
        score=listed("score"),
        cluster=listed("cluster"),
        semantic=listed("semantic"),
        semantic_cluster=listed("semantic_cluster"),
        select=listed("select"),
        logs=f"results/{CONFIG.run}/logs",
        # No inputs: the report does without.
        pool=given(listing.compact([file.path for file in POOL])),
        root=given(POOL_ROOT),
        plan=artefact("plan"),
    shell:
        "workflow/run report --log {log:q} --job {params.job:q} --settings {params.settings:q}"
        " --random {input.random:q} --bootstrap {input.bootstrap:q} --initial {input.initial:q}"
        " --final {input.final:q} --groups {input.groups:q} --score {params.score:q} --cluster {params.cluster:q}"
        " --centroids {input.centroids:q} --semantic {params.semantic:q}"
        " --semantic-cluster {params.semantic_cluster:q}"
        " --semantic-centroids {input.semantic_centroids:q}"
        " --select {params.select:q} --curves {input.curves:q}"
        " --summary {input.summary:q} --logs {params.logs:q}"
        " --pool {params.pool:q} --root {params.root:q} --plan {params.plan:q}"
        " --output {output.page:q} --figures {output.figures:q} --tables {output.tables:q}"
