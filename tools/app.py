"""Look at what a trained model does, in a browser on this machine."""

import sys

from mmdefmamba.cli.app import main

if __name__ == '__main__':
    sys.exit(main())
