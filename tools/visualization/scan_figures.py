"""Draw what a block does with images: its points, its scan orders, and what a token receives from the others."""

from mmdefmamba.cli.draw_scan_figures import main
from mmdefmamba.cli.program import run

if __name__ == '__main__':
    run(main)
