"""How every tool parses its options, prints, and ends: a mistake of the user gives the message alone.

What a tool prints or logs may contain names from files of strangers, see :func:`~mmdefmamba.files.shown`. Our own lines
go through :func:`~mmdefmamba.files.say`. This module does the same for what other code prints in a tool: argparse, the
loggers and ``print`` of all libraries, and tracebacks.
"""

import argparse
import builtins
import contextlib
import logging
import pickle
import sys
import traceback
from pathlib import PurePath

from ..files import shown, shown_lines
from ..installed import explain_missing

FAILED, WRONG_CONFIG = 1, 2
#: The functions that read what a user gives: an error that passes through one of them is a mistake of the user. They
#: are named here, not imported, since ``mmdefmamba --help`` needs none of them.
READING = (
    'mmdefmamba.apis.zoo.find_config',
    'mmdefmamba.cli.run_options.test_config',
    'mmdefmamba.cli.run_options.train_config',
    'mmdefmamba.cli.start.start',
    'mmdefmamba.compat.safe_loading.load_safely',
    'mmdefmamba.files.existing_file',
    'mmdefmamba.guards.checkpoint_fit.after_load_checkpoint',
    'mmdefmamba.guards.config_errors.read_config',
)


class Parser(argparse.ArgumentParser):
    """argparse's parser, whose errors show every character of what was typed."""

    def exit(self, status=0, message=None):
        super().exit(status, message and shown_text(message))


def run(main):
    """Run the ``main`` of a tool and exit. An error while the config is read is printed without a traceback.

    The same holds if a library is missing that a user installs, see :func:`~mmdefmamba.installed.explain_missing`.

    Args:
        main: a function without arguments; what it returns is the exit code, as for ``sys.exit``.
    """
    sys.excepthook = _print_error
    with _shown_output():
        try:
            code = main()
        except SystemExit as end:
            code = end.code
        except (ImportError, OSError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
            missing = explain_missing(error)
            called = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
            if not missing and not any(f'{c.f_globals.get("__name__")}.{c.f_code.co_name}' in READING for c in called):
                raise
            tell_error(missing or error)
            code = WRONG_CONFIG
    if isinstance(code, str):  # the interpreter would print it as it is
        print(shown_text(code), file=sys.stderr)
        code = FAILED
    sys.exit(code)


def tell_error(error):
    """Print an error, which may have several lines, on stderr.

    Args:
        error: an exception or a text.
    """
    print(shown_text(f'error: {error}'), file=sys.stderr)


def shown_text(text):
    """Return a text of several lines in the form of :func:`~mmdefmamba.files.shown_lines`.

    A line break in the name of a file that was typed is none of the text's own.
    """
    text = str(text)
    for name in _names_with_breaks(sys.argv[1:]):
        text = text.replace(name, shown(name))
    return shown_lines(text)


def _names_with_breaks(arguments):
    """Return the parts of paths among some arguments that contain a line break: folders, names, names without suffix.

    A library may print any of them, for example the folder of a file.
    """
    paths = [PurePath(value) for argument in arguments for value in argument.split('=') if '\n' in value]
    return {name for path in paths for part in path.parts for name in (part, PurePath(part).stem) if '\n' in name}


class _ShownRecord(logging.LogRecord):
    """A record of any logger. Handlers, formatters and files of logs all ask it for its text."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.exc_info and self.exc_info[0]:
            self.exc_text = shown_text(''.join(traceback.format_exception(*self.exc_info)).rstrip('\n'))

    def getMessage(self):
        return shown_text(super().getMessage())


@contextlib.contextmanager
def _shown_output():
    """Show every character of what libraries log and print, within a tool.

    Progress bars and colours do not go through ``print``.
    """
    factory, plain_print = logging.getLogRecordFactory(), builtins.print

    def print_shown(*values, file=None, **options):
        if file in (None, sys.stdout, sys.stderr):
            values = map(shown_text, values)
        plain_print(*values, file=file, **options)

    logging.setLogRecordFactory(_ShownRecord)
    builtins.print = print_shown
    try:
        yield
    finally:
        builtins.print = plain_print
        logging.setLogRecordFactory(factory)


def _print_error(*error):
    """Print an error that ends the program, with its traceback, as the interpreter does."""
    print(shown_text(''.join(traceback.format_exception(*error))), end='', file=sys.stderr)
