# The selected rows of every pool file, unchanged, in a file of the same name and format.
# reads: pool, select/. writes: dataset/{method}/.


rule materialise:
    input:
        pool=lambda wildcards: present([FILES[wildcards.file].path]),
        selection=lambda wildcards: artefact(
            "select", method=wildcards.method, shard=SHARD_OF[wildcards.file]
        ),
    output:
        artefact("dataset"),
    log:
        logged("materialise_{method}/{file}"),
    benchmark:
        timed("materialise/{method}/{file}")
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=minutes(120),
    params:
        settings=settings("MaterialiseSettings", "dataset"),
        pool=lambda wildcards: FILES[wildcards.file].path,
        root=POOL_ROOT,
    shell:
        "workflow/run materialise --log {log:q} --settings {params.settings:q}"
        " --pool {params.pool:q} --root {params.root:q} --selection {input.selection:q}"
        " --output {output:q}"


DATASETS = [
    artefact("dataset", method=method, file=name)
    for method in METHODS
    for name in FILES
]
