"""The use of trained models: by name, from Python and from the command line."""

from .zoo import get_model, list_models

__all__ = ['get_model', 'list_models']
