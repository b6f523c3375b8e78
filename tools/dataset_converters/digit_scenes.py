"""Write the digit scenes: a COCO style instance set and an ADE style semantic set, from data scikit-learn brings."""

from mmdefmamba.cli.program import run
from mmdefmamba.cli.write_digit_scenes import main

if __name__ == '__main__':
    run(main)
