"""snakemake, as a command, that asks SLURM about its jobs once a second.

The plugin waits ten seconds longer from each look to the next, and no option changes that.
"""

import asyncio

from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor


async def a_second(executor: RemoteExecutor) -> None:
    await asyncio.sleep(1)


if __name__ == "__main__":
    RemoteExecutor.sleep = a_second  # type: ignore[method-assign]
    main()
