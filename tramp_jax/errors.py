"""``UserError`` is what a user can fix. Any other exception that escapes is our bug and keeps its traceback."""


class UserError(ValueError):
    """Bad input, a bad option or a missing file: something the user can fix.

    The command line prints its message as one line and exits with code 1.

    Attributes:
      kind: short, stable name such as "missing_file". Programs and tests rely on it, never on the wording.
      message: names the file or option, says what is wrong and how to fix it.
    """

    def __init__(self, kind: str, message: str):
        super().__init__(kind, message)  # both, so that the error survives pickling
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        return self.message
