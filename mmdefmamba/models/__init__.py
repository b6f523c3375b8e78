"""The network of the paper, one file per figure: figure 2a ``defmamba``, figure 2b ``dm_block``, figure 3a ``dssm``.

``masked`` is the same network for masked image modelling.
"""

from .defmamba import ARCHITECTURES, DefMamba
from .dm_block import DMBlock
from .dssm import DSSM
from .masked import MaskedDefMamba

__all__ = ['ARCHITECTURES', 'DSSM', 'DMBlock', 'DefMamba', 'MaskedDefMamba']
