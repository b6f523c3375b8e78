"""Draw the limitation in figure 6 of the paper for an image: the image, a part of it, and a regular pattern of it."""

from mmdefmamba.cli.draw_limitation_cases import main
from mmdefmamba.cli.program import run

if __name__ == '__main__':
    run(main)
