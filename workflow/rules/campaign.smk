# What a main process does before its first job and after its last; never in a dry run, nor in a job.
from groupmates.records import campaign, copied

with plainly():
    copied.check(Path("results") / CONFIG.run)


onstart:
    campaign.plan_only_when_a_job_ends(workflow)
    if campaign.makes_something(workflow):
        # That it is the only one at this run, and what SLURM would refuse.
        with plainly():
            campaign.check_times(workflow, CONFIG.run)
            preflight.begin(workflow, CONFIG.run, logger.info)
        copied.claim(Path("results") / CONFIG.run)
        # For `make status`: the plan as it is at the start, and how it ended.
        asked = workflow.resource_settings
        slots = asked.cores if workflow.local_exec else asked.nodes
        campaign.begin(workflow, CONFIG.run, CONFIG.model_dump(mode="json"), slots)


onsuccess:
    campaign.end(workflow, CONFIG.run, "done")


onerror:
    # Not at every parse: it draws tables.
    from groupmates.status.view import failed_jobs

    campaign.end(workflow, CONFIG.run, "failed")
    print(failed_jobs(Path("results") / CONFIG.run), file=sys.stderr)
