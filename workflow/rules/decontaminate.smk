# Documents that share 13 words with an evaluation example. Without decontaminate.examples there is no
# such rule. `take` leaves the documents out, or the report alone tells of them.
# reads: examples, pool, check/. writes: decontaminate/.

if TASK_EXAMPLES:
    TASK_FILES = [f for path in TASK_EXAMPLES for f in folder_files(path) or [path]]

    rule decontaminate_examples:
        output:
            artefact("task_examples"),
        log:
            logged("decontaminate_examples"),
        priority: 10  # a bad example shows before anything expensive
        resources:
            **asks(mem_mb=4000, runtime=30),
        params:
            settings=settings("TaskExamplesSettings", "task_examples"),
            examples=unrecorded(listing.compact(TASK_EXAMPLES)),
            seen=seen(TASK_FILES),
        shell:
            "{params.run} decontaminate-examples --log {log:q} --job {params.job:q}"
            " --settings {params.settings:q} --examples {params.examples:q} --output {output:q}"

    rule decontaminate:
        input:
            corpus=corpus_of_shard,
            check=artefact("check"),
            examples=artefact("task_examples"),
        output:
            artefact("overlaps"),
        log:
            logged("decontaminate_{shard}"),
        resources:
            **asks(mem_mb=4000, runtime=120),
        params:
            settings=settings("DecontaminateSettings", "overlaps"),
            pool=pool_of_shard,
        shell:
            "{params.run} decontaminate --log {log:q} --job {params.job:q}"
            " --settings {params.settings:q} --pool {params.pool:q} --check {input.check:q}"
            " --examples {input.examples:q} --output {output:q}"
