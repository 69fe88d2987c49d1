# The selected documents as a dataset to train on: a file per pool file, unchanged or as Parquet; or
# tokenised, a folder per part of the pool. Then they are made one dataset, and described.
# reads: pool, select/. writes: dataset/{method}/, dataset/{method}.shards/, dataset/{method}.json.
FORMAT = CONFIG.materialise.format
DATASET_PARTS = listing.deal(list(SHARDS), CONFIG.materialise.shards_per_job)

if FORMAT in ("same", "parquet"):
    WRITTEN = [artefact("dataset_shard", shard=shard) for shard in SHARDS]

    rule materialise:
        input:
            corpus=corpus_of_shard,
            selection=artefact("select"),
        output:
            artefact("dataset_shard"),
        log:
            logged("materialise_{method}_{shard}", LINE),
        resources:
            **asks(mem_mb=4000, runtime=120),
        params:
            settings=settings("MaterialiseSettings", "dataset_shard", "dataset"),
            pool=pool_of_shard,
            below=given(listing.shared_folder(POOL)),
        shell:
            "{params.run} materialise --log {log:q} --job {params.job:q}"
            " --settings {params.settings:q} --pool {params.pool:q}"
            " --selection {input.selection:q} --below {params.below:q} --output {output:q}"

else:
    # Parts of a Megatron dataset are joined; those of open_lm are the dataset.
    PART = directory(artefact("dataset_part"))
    WRITTEN = [artefact("dataset_part", part=part) for part in DATASET_PARTS]
    IN_PART = ["windows"] if FORMAT == "open_lm" else []

    rule tokenise:
        input:
            corpus=lambda wildcards: made_here(
                [file.path for file in part_files(wildcards)]
            ),
            selection=selection_of_part,
            tokenizer=[] if CONFIG.materialise.tokenizer else artefact("tokenizer"),
        output:
            temp(PART) if FORMAT == "megatron" else PART,
        log:
            logged("tokenise_{method}_{part}", LINE),
        resources:
            **asks(mem_mb=8000, runtime=240),
        params:
            settings=settings("TokeniseSettings", "dataset_part", *IN_PART),
            pool=lambda wildcards, resources: pool_argument(part_files(wildcards)),
            selection=listed("selection"),
            tokenizer=CONFIG.materialise.tokenizer or artefact("tokenizer"),
            seen=seen(folder_files(CONFIG.materialise.tokenizer)),
        shell:
            "{params.run} tokenise --log {log:q} --job {params.job:q}"
            " --settings {params.settings:q} --pool {params.pool:q}"
            " --selection {params.selection:q} --tokenizer {params.tokenizer:q}"
            " --part {wildcards.part} --output {output:q}"


MADE = {
    "open_lm": ["manifest"],
    "megatron": ["megatron_tokens", "megatron_index", "documents"],
}.get(FORMAT, [])


rule assemble:
    input:
        written=WRITTEN,
        select=selection,
    output:
        **{name: artefact(name) for name in MADE},
        readme=artefact("dataset_readme"),
        card=artefact("dataset_card"),
    log:
        logged("assemble_{method}", LINE),
    resources:
        **asks(mem_mb=4000, runtime=120),
    params:
        settings=settings("AssembleSettings", "dataset_card", "dataset_readme", *MADE),
        written=listed("written"),
        select=listed("select"),
    shell:
        "{params.run} assemble --log {log:q} --job {params.job:q} --settings {params.settings:q}"
        " --written {params.written:q} --select {params.select:q} --output {output.card:q}"


# Parts of a Megatron dataset are gone once it is assembled.
DATASETS = [
    path.replace("{line}", FIRST).replace("{method}", method)
    for method in METHODS
    for path in [
        artefact("dataset_card"),
        *map(artefact, MADE),
        *(WRITTEN if FORMAT != "megatron" else []),
    ]
]
