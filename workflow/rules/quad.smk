# Quad: clusters are the arms of a bandit, whose rewards are influence functions of a few documents.
# reads: base/, sample/, score/, cluster/, pool. writes: probe/quad/, order/{method}/.


rule probe_quad:
    input:
        base=artefact("base"),
        tokenizer=artefact("tokenizer"),
        reference=artefact("reference"),
        pool=present([file.path for file in POOL]),
        score=SCORES,
        cluster=CLUSTERS,
        centroids=artefact("centroids"),
    output:
        probed=artefact("quad"),
        clusters=artefact("quad_clusters"),
    log:
        logged("probe_quad_{method}"),
    wildcard_constraints:
        method=methods_of("quad"),
    resources:
        mem_mb=memory(16000),
        runtime=minutes(240),
        gpu=1,
    params:
        settings=settings_of_method("QuadSettings", "quad"),
        pool=given(listing.compact([file.path for file in POOL])),
        root=given(POOL_ROOT),
        score=listed("score"),
        cluster=listed("cluster"),
    shell:
        "workflow/run probe-quad --log {log:q} --job {params.job:q} --threads {threads}"
        " --settings {params.settings:q} --base {input.base:q} --tokenizer {input.tokenizer:q}"
        " --reference {input.reference:q} --pool {params.pool:q} --root {params.root:q}"
        " --score {params.score:q} --cluster {params.cluster:q} --centroids {input.centroids:q}"
        " --output {output.probed:q} --clusters {output.clusters:q}"


rule order_quad:
    input:
        clusters=artefact("quad_clusters"),
        score=SCORES,
        cluster=CLUSTERS,
    output:
        artefact("order"),
    log:
        logged("order_{method}_{partition}"),
    wildcard_constraints:
        method=methods_of("quad"),
    resources:
        mem_mb=memory(8000),
        runtime=minutes(60),
    params:
        settings=settings_of_method("QuadOrderSettings", "order"),
        score=listed("score"),
        cluster=listed("cluster"),
    shell:
        "workflow/run order-quad --log {log:q} --job {params.job:q} --settings {params.settings:q}"
        " --clusters {input.clusters:q} --score {params.score:q} --cluster {params.cluster:q}"
        " --output {output:q}"
