"""Measurements on the paper itself: tables, ablations, the two formulations, and the gradient of the order."""
