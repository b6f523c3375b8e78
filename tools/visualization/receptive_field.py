"""Draw the effective receptive field of a stage before and after training."""

from mmdefmamba.cli.draw_receptive_field import main

if __name__ == '__main__':
    main()
