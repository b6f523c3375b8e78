"""Test a checkpoint: classification, detection or segmentation."""

from mmdefmamba.cli.test import main

if __name__ == '__main__':
    main()
