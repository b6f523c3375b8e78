"""Checkpoints of other implementations."""

from .released import convert_file, convert_released, export_released, infer_network

__all__ = ['convert_file', 'convert_released', 'export_released', 'infer_network']
