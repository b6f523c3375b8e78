"""Quickstarts: train, test and draw a DefMamba on a CPU. There is one module per task, each with ``run(work_dir)``."""
