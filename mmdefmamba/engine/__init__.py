"""What training and testing need beyond MMEngine's own parts."""

from .pretrained import PretrainedInit

__all__ = ['PretrainedInit']
