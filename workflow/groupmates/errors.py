"""The one exception for mistakes that the user can mend."""


class UserError(Exception):
    """Input, settings or environment are not as they must be; nothing was written.

    The command line prints the message without a traceback and exits with status 2. A message says
    what was expected, what was found, where, and what to do next::

        raise UserError(
            expected="a JSON object with the text field 'text'",
            found="an object with the keys 'content', 'url'",
            where="pool/a.jsonl.zst, line 17",
            todo="set pool.columns.text to the name of the text field",
        )

    Named constructors have the words of what happens in many places: `store.damaged` for artefacts,
    `pool.damage` for pool files.
    """

    def __init__(self, *, expected: str, found: str, where: str, todo: str) -> None:
        super().__init__()
        self.expected, self.found, self.where, self.todo = expected, found, where, todo

    def __str__(self) -> str:
        return (
            f"expected: {self.expected}\n   found: {self.found}\n   where: {self.where}\n"
            f"   to do: {self.todo}"
        )
