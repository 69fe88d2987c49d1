# Influence-aware clusters: spherical k-means fitted on a sample, then every shard assigned.
# On a GPU faiss-gpu searches, where it is installed, and torch sums. reads: score/. writes: cluster/.


rule centroids:
    input:
        score=[artefact("score", shard=shard) for shard in SHARDS],
        unique=artefact("files"),  # only that it exists: every id occurs once
    output:
        centroids=artefact("centroids"),
        record=artefact("centroids").replace(".npy", ".json"),
    log:
        logged("centroids", LINE),
    threads: 2
    resources:
        **asks(mem_mb=32000, runtime=240, gpu=1),
    params:
        settings=settings("CentroidSettings", "centroids"),
        score=listed("score"),
    shell:
        "{params.run} centroids --log {log:q} --job {params.job:q} --settings {params.settings:q}"
        " --score {params.score:q} --output {output.centroids:q}"


rule cluster:
    input:
        score=artefact("score"),
        centroids=artefact("centroids"),
    output:
        artefact("cluster"),
    log:
        logged("cluster_{shard}", LINE),
    resources:
        **asks(mem_mb=8000, runtime=60, gpu=1),
    params:
        settings=settings("ClusterSettings", "cluster"),
    shell:
        "{params.run} cluster --log {log:q} --job {params.job:q} --settings {params.settings:q}"
        " --score {input.score:q} --centroids {input.centroids:q} --output {output:q}"
