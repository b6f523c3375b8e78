"""Checkpoints of other implementations, the files that the authors of DefMamba released, and in other formats."""

from .released import convert_file, convert_released, export_released, infer_network
from .tensors import convert_format

__all__ = ['convert_file', 'convert_format', 'convert_released', 'export_released', 'infer_network']
