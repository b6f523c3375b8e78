"""Pictures of what the network does."""

from .deformable import DeformableTrace, trace_deformable
from .digits import draw_digits

__all__ = ['DeformableTrace', 'draw_digits', 'trace_deformable']
