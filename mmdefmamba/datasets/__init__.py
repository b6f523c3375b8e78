"""Datasets of real images that are part of scikit-learn, so that nothing has to be downloaded."""

from .cluttered_digits import ClutteredDigits
from .digits import Digits

__all__ = ['ClutteredDigits', 'Digits']
