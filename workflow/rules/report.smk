# One self-contained page: what was selected from what, with what effect, and how far to trust it.
# Its figures also reach `snakemake --report`, with the captions of workflow/report/.
# reads: everything above, and texts of the pool where it still is. writes: report.html, report/.
FIGURES = {  # place in snakemake's report -> names
    "1. Effect": ["gap", "differences", "loss"],
    "2. Pipeline": ["times", "timeline"],
    "3. Influence model": [
        *["labels", "positions", "calibration"],
        *[f"predictions-{model}" for model in FITTED],
        *(["groups"] if GROUP_PARTS else []),
    ],
    "4. Selection": ["map", "clusters", "sources", "lengths", "resemblances"],
}


rule report:
    input:
        [probed(round, FIRST) for round in ROUNDS],
        [artefact("fit", line=FIRST, model=model) for model in FITTED],
        artefact("groups") if GROUP_PARTS else [],
        artefact("student", line=FIRST, model="final") if BY_STUDENT else [],
        SCORES,
        CLUSTERS,
        artefact("centroids", line=FIRST),
        [*SEMANTIC_SCORES, *SEMANTIC_CLUSTERS] if SEMANTIC else [],
        artefact("semantic_centroids") if SEMANTIC else [],
        [artefact("task_examples"), OVERLAPS] if TASK_EXAMPLES else [],
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
            for category, names in FIGURES.items()
            for name in names
        ],
        tables=[artefact("comparison", format=kind) for kind in ("csv", "md")],
    log:
        logged("report"),
    resources:
        **asks(mem_mb=8000, runtime=120),
    params:
        # Finished runs have recorded the version of the page, with which the others rose.
        settings=settings("ReportSettings", "report", "figure", "comparison", start=-1),
        inputs=all_inputs,
        # No input: the report does without.
        pool=unrecorded(pool_argument(POOL)),
    shell:
        "{params.run} report --log {log:q} --job {params.job:q} --settings {params.settings:q}"
        " --inputs {params.inputs:q} --pool {params.pool:q}"
        " --output {output.page:q} --figures {output.figures:q}"
