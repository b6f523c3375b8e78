"""Draw the paths of all registered scans that need no trained network, like figure 1 of the paper."""

from mmdefmamba.cli.draw_static_scans import main

if __name__ == '__main__':
    main()
