"""Run a tool that mmpretrain, mmdet or mmseg brings, with the backbone registered and the environment mended."""

from mmdefmamba.cli.openmmlab import main

if __name__ == '__main__':
    main()
