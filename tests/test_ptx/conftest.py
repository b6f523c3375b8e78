"""Lets the tests of the emulator import it: with pytest's import mode, tests are no packages."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
