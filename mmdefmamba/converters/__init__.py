"""Checkpoints of other implementations: the files that the authors of DefMamba released."""

from .released import convert_file, convert_released, export_released, infer_network

__all__ = ['convert_file', 'convert_released', 'export_released', 'infer_network']
