"""Predict images with a trained model: classification, detection or segmentation."""

from mmdefmamba.cli.infer import main
from mmdefmamba.cli.program import run

if __name__ == '__main__':
    run(main)
