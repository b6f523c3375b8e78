"""Convert a checkpoint of the authors' code into one for mmpretrain, mmdet and mmseg."""

from mmdefmamba.cli.convert_released import main
from mmdefmamba.cli.program import run

if __name__ == '__main__':
    run(main)
