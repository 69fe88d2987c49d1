# What the rules of selectors ask of a selector's class: inputs, arguments, memory, time.
# A selector prepares and orders; these are its steps.
import shlex

STEPS = {method: per_stage.steps_of(CONFIG, method) for method in METHODS}


def methods_of(name, gpu):
    """A pattern of the methods that have a step, with or without a GPU."""
    found = [
        m for m, steps in STEPS.items() if name in steps and steps[name].gpu == gpu
    ]
    return "|".join(found) or "(?!)"


def needed(name):
    """The inputs of a step's jobs, by the argument that names each."""
    return lambda wildcards: {
        need.argument: files_of(need, name, wildcards)
        for need in STEPS[wildcards.method][name].needs()
    }


def files_of(need, name, wildcards):
    if need.artefact is None:
        return user_files(need.files, need.key)
    if need == selectors.POOL:
        return present(pool_files(name, wildcards))
    path = artefact(need.artefact, method=wildcards.method, model=need.model)
    return [path.replace("{shard}", s) for s in SHARDS] if "{shard}" in path else path


def pool_files(name, wildcards):
    """The pool: of a job that has one scoring shard, the files of that."""
    of_shard = STEPS[wildcards.method][name].shares == "shards"
    found = SHARDS[list(SHARDS)[int(wildcards.partition)]] if of_shard else POOL
    return [file.path for file in found]


def user_files(patterns, key):
    try:
        found = listing.expand(list(patterns), key)
        if missing := [path for path in found if not os.path.exists(path)]:
            raise UserError(
                expected="files of the user",
                found=f"no file {missing[0]}",
                where=key,
                todo="correct the path",
            )
        return found
    except UserError as error:
        raise WorkflowError(str(error)) from None


def arguments(name):
    """The part of the command line about inputs, the job's number, threads and limits.

    Not recorded: inputs are by themselves, and what only limits makes nothing stale.
    """

    def found(wildcards, input, threads):
        step = STEPS[wildcards.method][name]
        words = dict(input.items())
        if "pool" in words:
            words |= {"pool": pool_files(name, wildcards), "root": POOL_ROOT}
        if step.gpu:
            words["threads"] = threads
        if step.shares:
            words["partition"] = int(wildcards.partition)
            words["partitions"] = partitions(wildcards)
        if name == "prepare":
            section = CONFIG.select.method(wildcards.method)
            words |= {limit: getattr(section, limit) for limit in section.limits}
        return " ".join(
            f"--{argument.replace('_', '-')} {spelled(value)}"
            for argument, value in words.items()
        )

    return found


def spelled(value):
    several = not isinstance(value, (str, int))
    return shlex.join(listing.compact(list(value)) if several else [str(value)])


def partitions(wildcards):
    """Jobs that share a method's order."""
    shared = {"clusters": CONFIG.select.partitions, "shards": len(SHARDS)}
    return shared.get(STEPS[wildcards.method]["order"].shares, 1)


def of_step(name, what):
    """What the class of a step says."""
    return lambda wildcards: getattr(STEPS[wildcards.method][name], what)


def growing(name, what, asked):
    """What a step asks for, `asked` as memory or minutes."""

    def found(wildcards, attempt):
        return asked(of_step(name, what)(wildcards))(wildcards, attempt)

    return found


def settings_of(name):
    def found(wildcards):
        step = STEPS[wildcards.method][name]
        return per_stage.as_param(step, *step.writes)

    return found
