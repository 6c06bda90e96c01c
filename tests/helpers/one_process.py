"""Several commands in one process, which then imports TensorFlow once; a program of its own, called by `processes`."""

import contextlib
import io
import json
import sys

from r2d2 import cli


def answer(arguments):
    """Exit code, standard output and standard error of a command line."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    sys.argv = ["r2d2", *arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code or 0
    return code, out.getvalue(), err.getvalue()


if __name__ == "__main__":
    print(json.dumps([answer(arguments) for arguments in json.load(sys.stdin)]))
