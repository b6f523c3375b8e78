"""Write the public form of a checkpoint: the weights alone, with a hash in the file name, and a model card."""

from mmdefmamba.cli.program import run
from mmdefmamba.cli.publish_model import main

if __name__ == '__main__':
    run(main)
