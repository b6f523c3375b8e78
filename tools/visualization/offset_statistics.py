"""Print and draw how far the deformable scans of a network move points and tokens in each stage."""

from mmdefmamba.cli.draw_offset_statistics import main
from mmdefmamba.cli.program import run

if __name__ == '__main__':
    run(main)
