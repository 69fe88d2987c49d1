# Quality, DCLM-Baseline's way: a classifier of good texts against the pool, top by score.
# reads: good texts, sample/, pool, score/. writes: quality/{method}.safetensors, order/{method}/.


rule fit_quality:
    input:
        positives=positives,
        reference=artefact("reference"),
        tokenizer=artefact("tokenizer"),
        probe_pool=artefact("probe_pool"),
        training_pool=artefact("training_pool"),
    output:
        classifier=artefact("classifier"),
        record=artefact("classifier").replace(".safetensors", ".json"),
    log:
        logged("fit_quality_{method}"),
    wildcard_constraints:
        method=methods_of("quality"),
    resources:
        mem_mb=memory(16000),
        runtime=minutes(120),
    params:
        settings=settings_of_method("QualitySettings", "classifier"),
    shell:
        "workflow/run fit-quality --log {log:q} --job {params.job:q} --settings {params.settings:q}"
        " --positives {input.positives:q} --reference {input.reference:q}"
        " --tokenizer {input.tokenizer:q} --probe-pool {input.probe_pool:q}"
        " --training-pool {input.training_pool:q} --output {output.classifier:q}"


rule order_quality:
    input:
        pool=lambda wildcards: present([f.path for f in SHARDS[score_shard(wildcards)]]),
        score=SCORES,
        classifier=artefact("classifier"),
    output:
        artefact("order"),
    log:
        logged("order_{method}_{partition}"),
    wildcard_constraints:
        method=methods_of("quality"),
    resources:
        mem_mb=memory(8000),
        runtime=minutes(240),
    params:
        settings=settings_of_method("QualityOrderSettings", "order"),
        pool=lambda wildcards: listing.compact(
            [file.path for file in SHARDS[score_shard(wildcards)]]
        ),
        root=given(POOL_ROOT),
        score=listed("score"),
    shell:
        "workflow/run order-quality --log {log:q} --job {params.job:q}"
        " --settings {params.settings:q} --pool {params.pool:q} --root {params.root:q}"
        " --score {params.score:q} --classifier {input.classifier:q}"
        " --partition {wildcards.partition} --output {output:q}"
