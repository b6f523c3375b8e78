"""Train several configs with several seeds each, and write one table of scores and costs, and a plot."""

from mmdefmamba.cli.ablation import main

if __name__ == '__main__':
    main()
