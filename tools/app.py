"""Look at what a trained model does, in a browser on this machine."""

from mmdefmamba.cli.app import main
from mmdefmamba.cli.program import run

if __name__ == '__main__':
    run(main)
