# Individual influence and embedding of every document, one job per shard of the pool. The fitted
# influence model predicts them, or a student of it, without a GPU.
# reads: pool, check/, sample/, fit/final. writes: distil/, score/.


rule distil:
    input:
        probe_pool=artefact("probe_pool"),
        training_pool=artefact("training_pool"),
        model=artefact("fit"),
        accepted=accepted_of_student,
    output:
        directory(artefact("student")),
    log:
        logged("distil_{model}", LINE),
    resources:
        **asks(mem_mb=16000, runtime=120, gpu=1),
    params:
        settings=settings("DistilSettings", "student"),
    shell:
        "{params.run} distil --log {log:q} --job {params.job:q} --threads {threads}"
        " --settings {params.settings:q} --model {input.model:q}"
        " --probe-pool {input.probe_pool:q} --training-pool {input.training_pool:q}"
        " --output {output:q}"


rule score:
    input:
        corpus=corpus_of_shard,
        check=artefact("check"),
        model=artefact("fit", model="final"),
        accepted=artefact("accept", model="final"),
    output:
        table=artefact("score"),
        embeddings=embeddings_of("score"),
    log:
        logged("score_{shard}", LINE),
    resources:
        **asks(mem_mb=16000, runtime=240, gpu=1),
    params:
        settings=settings("ScoreSettings", "score"),
        pool=pool_of_shard,
        compile=compiled("score"),
    shell:
        "{params.run} score --log {log:q} --job {params.job:q} --threads {threads}"
        " --settings {params.settings:q} --pool {params.pool:q} --check {input.check:q}"
        " --model {input.model:q} --compile {params.compile} --output {output.table:q}"


# The pool by another model than the final one. Readers check the version of `score` in it too.
use rule score as score_by with:
    input:
        corpus=corpus_of_shard,
        check=artefact("check"),
        model=artefact("fit"),
    output:
        table=artefact("score_by"),
        embeddings=embeddings_of("score_by"),
    log:
        logged("score_{model}_{shard}", LINE),
    params:
        settings=settings("ScoreSettings", "score", "score_by"),


rule score_student:
    input:
        corpus=corpus_of_shard,
        check=artefact("check"),
        student=artefact("student", model="final"),
    output:
        table=artefact("score"),
        embeddings=embeddings_of("score"),
    log:
        logged("score_student_{shard}", LINE),
    resources:
        **asks(mem_mb=8000, runtime=240),
    params:
        settings=settings("StudentScoreSettings", "score"),
        pool=pool_of_shard,
    shell:
        "{params.run} score-student --log {log:q} --job {params.job:q} --threads {threads}"
        " --settings {params.settings:q} --pool {params.pool:q} --check {input.check:q}"
        " --student {input.student:q} --output {output.table:q}"


use rule score_student as score_student_by with:
    input:
        corpus=corpus_of_shard,
        check=artefact("check"),
        student=artefact("student"),
    output:
        table=artefact("score_by"),
        embeddings=embeddings_of("score_by"),
    log:
        logged("score_student_{model}_{shard}", LINE),
    params:
        settings=settings("StudentScoreSettings", "score", "score_by"),
        pool=pool_of_shard,


# Which of them writes the scores.
if BY_STUDENT:

    ruleorder: score_student > score
    ruleorder: score_student_by > score_by

else:

    ruleorder: score > score_student
    ruleorder: score_by > score_student_by
