"""The command line: one module for each program in ``tools/``."""
