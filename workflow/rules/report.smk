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
        [probed(round) for round in ROUNDS],
        [artefact("fit", model=model) for model in ["initial", "final"][-len(ROUNDS) :]],
        artefact("groups") if GROUP_PARTS else [],
        SCORES,
        CLUSTERS,
        artefact("centroids"),
        [*SEMANTIC_SCORES, *SEMANTIC_CLUSTERS] if SEMANTIC else [],
        artefact("semantic_centroids") if SEMANTIC else [],
        SELECTIONS,
        CURVES,
        artefact("summary"),
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
        inputs=all_inputs,
        # No input: the report does without.
        pool=given(listing.compact([file.path for file in POOL])),
        root=given(POOL_ROOT),
    shell:
        "workflow/run report --log {log:q} --job {params.job:q} --settings {params.settings:q}"
        " --inputs {params.inputs:q} --pool {params.pool:q} --root {params.root:q}"
        " --output {output.page:q} --figures {output.figures:q}"
