"""Run a tool of mmpretrain, mmdet or mmseg with our backbone registered and our mends applied."""

from mmdefmamba.cli.openmmlab import main

if __name__ == '__main__':
    main()
