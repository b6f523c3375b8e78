"""Look at what a trained model does, in a browser on this machine."""

import sys

import mmdefmamba  # noqa: F401  mends what the libraries need before they are imported
from mmdefmamba.app.cli import main

if __name__ == '__main__':
    sys.exit(main())
