"""The two kinds of error that are meant for people: one line each, printed without a traceback."""


class InputError(Exception):
    """What the user gave is wrong: one line that names the file or key, the rule and the way out; exit code 2."""


class WorkFailed(RuntimeError):  # noqa: N818
    """The input was right and the work itself failed, for a reason that is one line; exit code 1."""
