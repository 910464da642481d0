"""A user's mistake, told in one line a fault: what, where, what was expected, what to do."""


class UserError(Exception):
    """A mistake that the user can mend; commands print its lines and exit with code 2, without a traceback.

    Several faults found together are one error with several lines, so that all are mended at once.
    """

    def __init__(self, *lines: str):
        super().__init__("\n".join(lines))
        self.lines = lines

    def __reduce__(self):
        """Keep the lines apart when a worker process hands the error over."""
        return type(self), self.lines
