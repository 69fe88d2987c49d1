"""`python -m groupmates COMMAND …`: a stage, as a rule prints it, or a question to a run."""

from __future__ import annotations

import os
import sys

from groupmates import run_stage
from groupmates.errors import UserError
from groupmates.settings.stages import STAGES


def main(argv: list[str]) -> int:
    """The exit status."""
    if argv and argv[0] in STAGES:
        return run_stage.main(argv)
    from groupmates.commands import app  # typer takes as long to import as some stages to run

    try:
        app(argv or ["--help"], prog_name="python -m groupmates")
    except SystemExit as ending:
        return int(ending.code or 0)
    except UserError as error:
        return run_stage.told(argv[0], error)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")  # our own progress lines tell more
    sys.exit(main(sys.argv[1:]))
