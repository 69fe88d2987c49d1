# Individual influence and embedding of every document, one job per shard of the pool.
# reads: pool, check/, fit/final. writes: score/.


rule score:
    input:
        corpus=corpus_of_shard,
        check=artefact("check"),
        model=artefact("fit", model="final"),
        accepted=artefact("accept", model="final"),
    output:
        table=artefact("score"),
        embeddings=artefact("score").replace(".parquet", ".npy"),
    log:
        logged("score_{shard}"),
    resources:
        **asks(mem_mb=16000, runtime=240, gpu=1),
    params:
        settings=settings("ScoreSettings", "score"),
        pool=pool_of_shard,
    shell:
        "{params.run} score --log {log:q} --job {params.job:q} --threads {threads}"
        " --settings {params.settings:q} --pool {params.pool:q} --check {input.check:q}"
        " --model {input.model:q} --output {output.table:q}"


# The pool by another model than the final one. Readers check the version of `score` in it too.
use rule score as score_by with:
    input:
        corpus=corpus_of_shard,
        check=artefact("check"),
        model=artefact("fit"),
    output:
        table=artefact("score_by"),
        embeddings=artefact("score_by").replace(".parquet", ".npy"),
    log:
        logged("score_{model}_{shard}"),
    params:
        settings=settings("ScoreSettings", "score", "score_by"),
