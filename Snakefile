# Group-MATES: which part of a text pool helps a language model most, as a group?
#
# Each rule calls `python -m groupmates STAGE` with the settings that its stage depends on; a printed
# command (snakemake -n -p) runs as it is on a bare node. workflow/README.md has the data flow.
import os

from snakemake.utils import min_version

min_version("9.0")


# That of the folder where snakemake is started, or else that of the checkout.
FOLDERS = (".", str(workflow.current_basedir))


configfile: next(f"{d}/config.yaml" for d in FOLDERS if os.path.exists(f"{d}/config.yaml"))


include: "workflow/rules/common.smk"
include: "workflow/rules/corpus.smk"
include: "workflow/rules/check.smk"
include: "workflow/rules/decontaminate.smk"
include: "workflow/rules/sample.smk"
include: "workflow/rules/base.smk"
include: "workflow/rules/probe.smk"
include: "workflow/rules/fit.smk"
include: "workflow/rules/groups.smk"
include: "workflow/rules/score.smk"
include: "workflow/rules/cluster.smk"
include: "workflow/rules/semantic.smk"
include: "workflow/rules/select.smk"
include: "workflow/rules/materialise.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/core.smk"
include: "workflow/rules/plan.smk"
include: "workflow/rules/frontier.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/campaign.smk"


for made in workflow.rules:
    made.conda_env = ENVIRONMENT
    made.set_params(job=job_of(made.name), run=unrecorded(RUN))


# The selected datasets, the proof that they help, and the page that shows both.
rule all:
    default_target: True
    input:
        DATASETS,
        artefact("summary"),
        artefact("report"),
