"""Predict images with a trained model: classification, detection or segmentation."""

import sys

from mmdefmamba.cli.infer import main

if __name__ == '__main__':
    sys.exit(main())
