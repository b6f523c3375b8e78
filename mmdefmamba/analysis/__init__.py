"""What a network costs."""

from .complexity import complexity
from .config_complexity import config_complexity, format_complexity

__all__ = ['complexity', 'config_complexity', 'format_complexity']
