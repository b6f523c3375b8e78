"""Write a trained model into an ONNX or .pt2 file, and check that the file computes the same."""

from mmdefmamba.cli.export import main
from mmdefmamba.cli.program import run

if __name__ == '__main__':
    run(main)
