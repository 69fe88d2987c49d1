# Clusters by meaning, of embeddings that no influence has shaped; nothing of it where no method has
# clusters: semantic. reads: pool, check/, base/, sample/. writes: score/semantic/, cluster/semantic/.


rule fit_semantic:
    input:
        base=artefact("base"),
        probe_pool=artefact("probe_pool"),
    output:
        encoder=artefact("semantic_encoder"),
        record=artefact("semantic_encoder").replace(".safetensors", ".json"),
    log:
        logged("fit_semantic"),
    resources:
        **asks(mem_mb=16000, runtime=60, gpu=1),
    params:
        settings=settings("SemanticFitSettings", "semantic_encoder"),
    shell:
        "{params.run} fit-semantic --log {log:q} --job {params.job:q} --threads {threads}"
        " --settings {params.settings:q} --base {input.base:q} --probe-pool {input.probe_pool:q}"
        " --output {output.encoder:q}"


rule embed:
    input:
        corpus=corpus_of_shard,
        check=artefact("check"),
        base=artefact("base"),
        tokenizer=artefact("tokenizer"),
        encoder=artefact("semantic_encoder"),
    output:
        table=artefact("semantic"),
        embeddings=embeddings_of("semantic"),
    log:
        logged("embed_{shard}"),
    resources:
        **asks(mem_mb=16000, runtime=240, gpu=1),
    params:
        settings=settings("EmbedSettings", "semantic"),
        pool=pool_of_shard,
    shell:
        "{params.run} embed --log {log:q} --job {params.job:q} --threads {threads}"
        " --settings {params.settings:q} --pool {params.pool:q}"
        " --check {input.check:q} --base {input.base:q} --tokenizer {input.tokenizer:q}"
        " --encoder {input.encoder:q} --output {output.table:q}"


use rule centroids as centroids_semantic with:
    input:
        score=SEMANTIC_SCORES,
        unique=artefact("files"),
    output:
        centroids=artefact("semantic_centroids"),
        record=artefact("semantic_centroids").replace(".npy", ".json"),
    log:
        logged("centroids_semantic"),
    params:
        settings=settings("CentroidSettings", "centroids", "semantic_centroids"),


use rule cluster as cluster_semantic with:
    input:
        score=artefact("semantic"),
        centroids=artefact("semantic_centroids"),
    output:
        artefact("semantic_cluster"),
    log:
        logged("cluster_semantic_{shard}"),
    params:
        settings=settings("ClusterSettings", "cluster", "semantic_cluster"),
