"""Predict images with a trained model: classification, detection or segmentation."""

import sys

import mmdefmamba  # noqa: F401  mends what the libraries need before they are imported
from mmdefmamba.apis.infer import main

if __name__ == '__main__':
    sys.exit(main())
