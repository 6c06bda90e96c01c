"""The one kind of error that is meant for people."""


class InputError(Exception):
    """What the user gave is wrong: one line that names the file or key, the rule and the way out.

    The command line prints it without a traceback and ends with exit code 2. Anything else that escapes is a bug and
    keeps its traceback.
    """
