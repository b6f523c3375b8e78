"""Write a trained model into an ONNX or .pt2 file, and check that the file computes the same."""

import sys

from mmdefmamba.cli.export import main

if __name__ == '__main__':
    sys.exit(main())
