"""`python -m service`, also installed as `weir`: runs the command line where it can be run.

What cannot be mended by a flag is told in one line here: an old Python, a package that is not
installed. So this file imports nothing else, and an old Python can read it.
"""

import sys

OLDEST_PYTHON = (3, 11)
EXIT_UNUSABLE = 2


def cli() -> None:
    """Run the command; end with one line and exit code 2 where it cannot be run."""
    if sys.version_info < OLDEST_PYTHON:
        found = "{}.{}".format(*sys.version_info)
        _end(f"Python 3.11 or newer is needed, and this is {found}: run it with a newer one")
    try:
        from .command_line import cli as run

        run()
    except ModuleNotFoundError as fault:
        missing = str(fault.name).partition(".")[0]
        if missing == str(__package__).partition(".")[0]:
            raise  # a file of our own: not for a user to install
        _end(f"the package {missing!r} is missing; pip install 'tableweir[service]' brings it")


def _end(message: str) -> None:
    sys.stderr.write(f"weir: {message}\n")
    sys.exit(EXIT_UNUSABLE)


if __name__ == "__main__":
    cli()
