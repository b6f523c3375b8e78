"""Train a model: classification, detection or segmentation."""

from mmdefmamba.cli.train import main

if __name__ == '__main__':
    main()
