"""Scans: how a feature map becomes a sequence of tokens. Each scan says what is read and in which order."""

from .atrous import AtrousScan
from .base import SCANS, Scan, ScanContext, StaticScan, build_scan
from .column import ColumnReverseScan, ColumnScan
from .content import ContentScan
from .continuous import ContinuousScan
from .deformable import DeformableScan
from .fixed_offsets import FixedOffsetScan
from .hilbert import HilbertScan
from .local import LocalScan
from .quadtree import QuadtreeScan
from .raster import RasterReverseScan, RasterScan
from .spanning_tree import SpanningTreeScan
from .zigzag import ZigzagScan

__all__ = [
    'SCANS',
    'AtrousScan',
    'ColumnReverseScan',
    'ColumnScan',
    'ContentScan',
    'ContinuousScan',
    'DeformableScan',
    'FixedOffsetScan',
    'HilbertScan',
    'LocalScan',
    'QuadtreeScan',
    'RasterReverseScan',
    'RasterScan',
    'Scan',
    'ScanContext',
    'SpanningTreeScan',
    'StaticScan',
    'ZigzagScan',
    'build_scan',
]
