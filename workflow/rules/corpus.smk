# The built-in pool and reference: text that Python and its packages bring along.
# reads: the installed packages. writes: corpus/.


rule corpus:
    output:
        shards=CORPUS,
        reference=artefact("corpus_reference"),
    log:
        logged("corpus"),
    resources:
        **asks(mem_mb=2000, runtime=30),
    params:
        settings=settings("CorpusSettings", "corpus", "corpus_reference"),
    shell:
        "{params.run} corpus --log {log:q} --job {params.job:q} --settings {params.settings:q}"
        " --shards {output.shards:q} --reference {output.reference:q}"
