"""Checkpoints of other implementations, the files that the authors of DefMamba released, and in other formats."""

from .formats import convert_format
from .released import convert_file, convert_released, export_released, infer_network

__all__ = ['convert_file', 'convert_format', 'convert_released', 'export_released', 'infer_network']
