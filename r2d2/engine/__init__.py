"""The R2D2 Engine: one verb a file, behind the command line and the dashboard alike."""


class WorkFailed(RuntimeError):  # noqa: N818
    """The work itself failed, for a reason that is one line; exit code 1."""
