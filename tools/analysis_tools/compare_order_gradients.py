"""Compare the gradients of the deformable scan's order with measured changes of the loss, on a classifier's images."""

from mmdefmamba.cli.compare_order_gradients import main

if __name__ == '__main__':
    main()
