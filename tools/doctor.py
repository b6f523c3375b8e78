"""Say whether this environment is broken, and whether it is slow."""

import sys

from mmdefmamba.cli.doctor import main

if __name__ == '__main__':
    sys.exit(main())
