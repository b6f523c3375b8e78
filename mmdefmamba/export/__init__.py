"""Exported models: files that other programs run, and the proof that they give the same results."""
