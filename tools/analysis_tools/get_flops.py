"""Print the parameters and FLOPs of a config's model, with and without the selective scan."""

from mmdefmamba.cli.get_flops import main
from mmdefmamba.cli.program import run

if __name__ == '__main__':
    run(main)
