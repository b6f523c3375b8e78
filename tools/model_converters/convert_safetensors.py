"""Convert a checkpoint from .pth to .safetensors, or back."""

from mmdefmamba.cli.convert_safetensors import main
from mmdefmamba.cli.program import run

if __name__ == '__main__':
    run(main)
