# Models pretrained on selections, `snakemake pretrain`. Outside `rule all`: nothing of a run depends on
# them. The selected documents are tokenised once per method; a training is one job, on one or more GPUs.
# reads: select/, pool, base/, sample/. writes: pretrain/.


rule pretrain_tokens:
    input:
        corpus=lambda wildcards: made_here(
            [file.path for file in part_files(wildcards)]
        ),
        selection=selection_of_part,
        tokenizer=artefact("tokenizer"),
    output:
        directory(artefact("pretrain_tokens")),
    log:
        logged("pretrain_tokens_{method}_{part}", LINE),
    resources:
        **asks(mem_mb=8000, runtime=240),
    params:
        settings=settings(
            "PretrainTokensSettings", "pretrain_tokens", "pretrain_documents"
        ),
        pool=lambda wildcards, resources: pool_argument(part_files(wildcards)),
        selection=listed("selection"),
    shell:
        "{params.run} pretrain-tokens --log {log:q} --job {params.job:q} --threads {threads}"
        " --settings {params.settings:q} --pool {params.pool:q}"
        " --selection {params.selection:q} --tokenizer {input.tokenizer:q}"
        " --part {wildcards.part} --output {output:q}"


PRETRAINED = [
    *("pretrained", "pretrain_curve", "pretrain_examples"),
    *("ledger", "milestones"),
]


rule pretrain_model:
    input:
        tokens=expand(
            artefact("pretrain_tokens"), part=list(DATASET_PARTS), allow_missing=True
        ),
        start=start_of_training,
        reference=artefact("reference"),
    output:
        pretrained=directory(artefact("pretrained")),
        curve=artefact("pretrain_curve"),
        examples=artefact("pretrain_examples"),
        ledger=artefact("ledger"),
        # Always, though it may be empty: snakemake compares no settings where an output is new.
        milestones=directory(artefact("milestones")),
    log:
        logged("pretrain_model_{method}_{seed}", LINE),
    threads: 2
    resources:
        **asks(mem_mb=16000, runtime=1440, gpu=1),
    params:
        settings=pretrain_settings,
        tokens=listed("tokens"),
        # Those that make nothing stale.
        max_passes=unrecorded(CONFIG.pretrain.max_passes or "inf"),
        sharding=unrecorded(CONFIG.pretrain.sharding),
        compile=compiled("pretrain"),
        tracker=unrecorded(CONFIG.pretrain.tracker or "none"),
        srun=srun,
        processes=processes,
    shell:
        "{params.srun} {params.run} pretrain {params.processes} --log {log:q}"
        " --job {params.job:q} --threads {threads} --settings {params.settings:q}"
        " --tokens {params.tokens:q} --start {input.start:q} --reference {input.reference:q}"
        " --number {wildcards.seed} --output {output.pretrained:q} --curve {output.curve:q}"
        " --examples {output.examples:q} --ledger {output.ledger:q}"
        " --milestones {output.milestones:q} --max-passes {params.max_passes} --sharding {params.sharding}"
        " --compile {params.compile} --tracker {params.tracker:q}"


rule pretrain:
    input:
        pretrained_models,
