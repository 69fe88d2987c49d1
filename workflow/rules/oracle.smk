# oracle_greedy: greedy by brute force over true losses, for small pools. What is too much is refused
# as soon as the documents are counted: of a budget in tokens, when their tokens are.
# reads: check/, pool, base/, sample/, score/. writes: oracle/{method}.json, order/{method}/.


localrules:
    check_oracle_greedy,


rule check_oracle_greedy:
    input:
        files=artefact("files"),
        score=SCORES if CONFIG.select.budget.tokens else [],
    output:
        artefact("brute_force"),
    log:
        logged("check_{method}"),
    wildcard_constraints:
        method=methods_of("oracle_greedy"),
    priority: 10
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    params:
        settings=settings_of_method("OracleCheckSettings", "brute_force"),
        score=listed("score"),
        # Not recorded, as it asks for resources: what is allowed makes nothing stale.
        most=lambda wildcards, resources: selector(wildcards.method).max_evaluations,
    shell:
        "workflow/run check-oracle-greedy --log {log:q} --job {params.job:q}"
        " --settings {params.settings:q} --method {wildcards.method} --files {input.files:q}"
        " --score {params.score:q} --max-evaluations {params.most} --output {output:q}"


rule order_oracle_greedy:
    input:
        allowed=artefact("brute_force"),
        base=artefact("base"),
        tokenizer=artefact("tokenizer"),
        reference=artefact("reference"),
        pool=present([file.path for file in POOL]),
        score=SCORES,
    output:
        artefact("order"),
    log:
        logged("order_{method}_{partition}"),
    wildcard_constraints:
        method=methods_of("oracle_greedy"),
    priority: 10  # its steps follow each other: it is the longest job of a run
    resources:
        mem_mb=memory(16000),
        runtime=minutes(240),
        gpu=1,
    params:
        settings=settings_of_method("OracleGreedySettings", "order"),
        pool=given(listing.compact([file.path for file in POOL])),
        root=given(POOL_ROOT),
        score=listed("score"),
    shell:
        "workflow/run order-oracle-greedy --log {log:q} --job {params.job:q} --threads {threads}"
        " --settings {params.settings:q} --base {input.base:q} --tokenizer {input.tokenizer:q}"
        " --reference {input.reference:q} --pool {params.pool:q} --root {params.root:q}"
        " --score {params.score:q} --output {output:q}"
