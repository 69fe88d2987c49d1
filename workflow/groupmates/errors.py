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
    """

    def __init__(self, *, expected: str, found: str, where: str, todo: str) -> None:
        self.expected, self.found, self.where, self.todo = expected, found, where, todo
        super().__init__(
            f"expected: {expected}\n   found: {found}\n   where: {where}\n   to do: {todo}"
        )
