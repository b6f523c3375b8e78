"""Convert a checkpoint of the authors' code into one for mmpretrain, mmdet and mmseg."""

from mmdefmamba.cli.convert_released import main

if __name__ == '__main__':
    main()
