"""The spanning tree scan: along the minimum spanning tree of the map, so that similar tokens come together."""

import numpy as np
import torch

from ..ops.tensors import is_exporting
from .base import SCANS
from .content import ContentScan


@SCANS.register_module(name='spanning_tree')
class SpanningTreeScan(ContentScan):
    """Breadth-first order over the minimum spanning tree of the 4-neighbour grid, from the top left.

    The weight of an edge is the squared distance of its two tokens. Only the order is that of GrootV. There the state
    runs along the branches of the tree, here along one sequence.

    SciPy finds the tree on the CPU, for the whole batch at once. On another device each call waits for a copy to the
    CPU and back.

    Raises:
        ValueError: the network is being exported: SciPy is no part of an exported graph.
        ImportError: SciPy is not installed. It is raised when the scan first runs.

    Source: GrootV (MambaTree), tree topology scanning.
    """

    def order(self, x):
        if is_exporting():
            raise ValueError(
                "a network with the scan 'spanning_tree' cannot be exported, neither for free sizes nor for one size: "
                'SciPy finds the tree of each image, and an exported file cannot call it. Train with another scan'
            )
        # imported here: no other scan needs SciPy
        try:
            from scipy.sparse import csr_array
            from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
        except ImportError as error:
            raise ImportError('the spanning_tree scan needs SciPy: pip install scipy') from error

        batch, _, height, width = map(int, x.shape)  # tracing gives tensors
        length = height * width
        # int32: graphs of SciPy before 1.12 take no other indices
        places = np.arange(batch * length, dtype=np.int32).reshape(batch, height, width)
        start = np.concatenate([places[:, :, :-1].ravel(), places[:, :-1].ravel()])
        end = np.concatenate([places[:, :, 1:].ravel(), places[:, 1:].ravel()])
        across = (x[..., 1:] - x[..., :-1]).square().sum(1).flatten()
        down = (x[..., 1:, :] - x[..., :-1, :]).square().sum(1).flatten()
        weight = torch.cat([across, down])
        # Ranks instead of weights: the tree depends only on the order of the weights, SciPy would take a weight of 0
        # for a missing edge, and ties are broken the same way everywhere.
        rank = torch.empty_like(weight, dtype=torch.float64)
        rank[weight.argsort(stable=True)] = torch.arange(1, len(weight) + 1, dtype=rank.dtype, device=x.device)
        # one root above all images, so that one search visits them all
        root = batch * length
        roots = places[:, 0, 0]
        graph = csr_array(
            (
                np.concatenate([rank.cpu().numpy(), np.full(batch, 0.5)]),
                (np.concatenate([start, np.full_like(roots, root)]), np.concatenate([end, roots])),
            ),
            shape=(root + 1, root + 1),
        )
        visited = breadth_first_order(minimum_spanning_tree(graph), root, directed=False, return_predecessors=False)[1:]
        by_image = visited[np.argsort(visited // length, kind='stable')]
        return torch.from_numpy(by_image.reshape(batch, length).astype(np.int64) % length)
