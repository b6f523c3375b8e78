"""Datasets of real images that come inside a package, so that nothing has to be fetched."""

from .cluttered_digits import ClutteredDigits
from .digits import Digits

__all__ = ['ClutteredDigits', 'Digits']
