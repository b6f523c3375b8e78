"""Convert a checkpoint from .pth to .safetensors, or back."""

from mmdefmamba.cli.convert_safetensors import main

if __name__ == '__main__':
    main()
