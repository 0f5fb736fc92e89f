"""What stands around the experts of a mixture: the choice of experts, tokens in their order, and the weighted sum."""

from kpusim.operators.moe.combine import MoeCombine
from kpusim.operators.moe.permute import Permute
from kpusim.operators.moe.routing import TopkRouting

__all__ = ["MoeCombine", "Permute", "TopkRouting"]
