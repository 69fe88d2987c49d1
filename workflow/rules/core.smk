# CORE: in-context questions put to finished models, `snakemake core`. Outside `rule all`: nothing of a
# run depends on it. reads: core.models, core.data, pretrain/ with core.pretrained. writes: core/.
from groupmates.pool import core_tasks

with plainly():
    CORE = (
        core_tasks.chosen_tasks(CONFIG.core.data, CONFIG.core.tasks)
        if CONFIG.core.models or CONFIG.core.pretrained
        else {}
    )


rule core_task:
    input:
        made=core_made,
    output:
        artefact("core_predictions"),
    log:
        logged("core_{lm}_{task}"),
    wildcard_constraints:
        lm="|".join([*CONFIG.core.models, *core_pretrained()]) or "(?!)",
        task="|".join(CORE) or "(?!)",
    threads: 2
    resources:
        **asks(mem_mb=16000, runtime=240, gpu=1),
    params:
        settings=settings("CoreSettings", "core_predictions"),
        folder=core_folder,
        data=unrecorded(CONFIG.core.data),
        seen=core_seen,
    shell:
        "{params.run} core-task --log {log:q} --job {params.job:q} --threads {threads}"
        " --settings {params.settings:q} --checkpoint {params.folder:q}"
        " --data {params.data:q} --task {wildcards.task:q} --output {output:q}"


rule core:
    input:
        core_predictions,
    output:
        table=artefact("core_table", format="csv"),
        markdown=artefact("core_table", format="md"),
    log:
        logged("core"),
    resources:
        **asks(mem_mb=2000, runtime=30),
    params:
        settings=settings("CoreTableSettings", "core_table"),
    shell:
        "{params.run} core --log {log:q} --job {params.job:q} --settings {params.settings:q}"
        " --predictions {input:q} --output {output.table:q} --markdown {output.markdown:q}"
