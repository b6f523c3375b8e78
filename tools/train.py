"""Train a model: classification, detection or segmentation."""

from mmdefmamba.cli.program import run
from mmdefmamba.cli.train import main

if __name__ == '__main__':
    run(main)
