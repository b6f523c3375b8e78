"""How a feature map becomes a sequence of tokens, and comes back."""

from .base import SCANS, Scan, ScanContext, StaticScan, build_scan
from .deformable import DeformableScan
from .raster import RasterReverseScan, RasterScan

__all__ = [
    'SCANS',
    'DeformableScan',
    'RasterReverseScan',
    'RasterScan',
    'Scan',
    'ScanContext',
    'StaticScan',
    'build_scan',
]
