"""How a tool ends when a config, option or checkpoint is wrong, or a library is missing: with the message alone."""

import pickle
import sys
import traceback

from ..files import shown_lines
from ..installed import explain_missing

WRONG_CONFIG = 2
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


def run(main):
    """Run the ``main`` of a tool and exit. An error while the config is read is printed without a traceback.

    The same holds if a library is missing that a user installs, see :func:`~mmdefmamba.installed.explain_missing`.

    Args:
        main: a function without arguments; what it returns is the exit code, as for ``sys.exit``.
    """
    try:
        sys.exit(main())
    except (ImportError, OSError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        missing = explain_missing(error)
        called = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
        if not missing and not any(f'{c.f_globals.get("__name__")}.{c.f_code.co_name}' in READING for c in called):
            raise
        print(f'error: {shown_lines(missing or error)}', file=sys.stderr)
        sys.exit(WRONG_CONFIG)
