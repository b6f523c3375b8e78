"""Read the data of a config without training: counts, sizes, what is left out, problems, and a page with samples."""

import sys

from mmdefmamba.cli.check_data import main

if __name__ == '__main__':
    sys.exit(main())
