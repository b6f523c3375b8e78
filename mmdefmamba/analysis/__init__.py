"""What a network costs."""

from .complexity import complexity

__all__ = ['complexity']
