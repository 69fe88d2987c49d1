# At the start of a run, never of a dry run: that it is the only one, and what SLURM would refuse.
from groupmates import slurm


onstart:
    try:
        slurm.begin(workflow, CONFIG.run, logger.info)
    except UserError as error:
        raise WorkflowError(str(error)) from None
