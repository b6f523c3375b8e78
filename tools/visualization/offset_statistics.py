"""Print and draw how far the deformable scans of a network move points and tokens in each stage."""

from mmdefmamba.cli.draw_offset_statistics import main

if __name__ == '__main__':
    main()
