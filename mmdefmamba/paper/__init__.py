"""The questions of the paper itself: its tables and ablations, its two formulations, the gradient of the order."""
