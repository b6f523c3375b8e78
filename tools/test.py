"""Test a checkpoint: classification, detection or segmentation."""

from mmdefmamba.cli.program import run
from mmdefmamba.cli.test import main

if __name__ == '__main__':
    run(main)
