"""Compare the gradients of the deformable scan's order with measured changes of the loss, on a classifier's images."""

from mmdefmamba.cli.compare_order_gradients import main
from mmdefmamba.cli.program import run

if __name__ == '__main__':
    run(main)
