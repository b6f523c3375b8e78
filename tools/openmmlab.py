"""Run a tool of mmpretrain, mmdet or mmseg with our backbone registered and our mends applied."""

from mmdefmamba.cli.openmmlab import main
from mmdefmamba.cli.program import run

if __name__ == '__main__':
    run(main)
