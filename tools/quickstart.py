"""Train, test and picture a small DefMamba on a CPU, from data that comes with the installed packages."""

from mmdefmamba.cli.quickstart import main

if __name__ == '__main__':
    main()
