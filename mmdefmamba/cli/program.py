"""How a tool ends when its config or its options are wrong: with the message alone."""

import sys
import traceback

from ..files import existing_file
from ..guards.config_errors import read_config
from .run_options import test_config, train_config

WRONG_CONFIG = 2
_READING = {existing_file.__code__, read_config.__code__, train_config.__code__, test_config.__code__}


def run(main):
    """Run the ``main`` of a tool and exit. An error while the config is read is printed without a traceback.

    Args:
        main: a function without arguments; what it returns is the exit code, as for ``sys.exit``.
    """
    try:
        sys.exit(main())
    except (OSError, RuntimeError, ValueError) as error:
        if not any(frame.f_code in _READING for frame, _ in traceback.walk_tb(error.__traceback__)):
            raise
        print(f'error: {error}', file=sys.stderr)
        sys.exit(WRONG_CONFIG)
