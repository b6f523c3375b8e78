"""From nothing to a trained, tested and pictured DefMamba on a CPU; one module a task, each with ``run(work_dir)``."""
