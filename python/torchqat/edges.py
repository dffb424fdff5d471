"""Integer edges: where one integer kernel feeds others, codes flow instead of floats.

The producer's kernel writes the codes its consumers would make of the float result, `clamp(rint(y / s) + z)`: bit-equal, without
the float tensor between. Clipping (ReLU, ReLU6) right behind a producer is done by narrowing the range of the codes.
"""

from typing import NamedTuple

import torch
from torch import fx, nn

from torchqat.flow import MAX_POOL, RELU, Flow, clip_range
from torchqat.nn.qat._layer import QatLayer
from torchqat.nn.qat.add import Add


class Grid(NamedTuple):
    """Codes of a value: the same for two readers if their grids are equal."""

    scale: float
    zero_point: int
    quant_min: int
    quant_max: int


class Edge(NamedTuple):
    """What a producer needs to know to write codes: quant_min and quant_max include the clipping that it takes over."""

    scale: torch.Tensor
    zero_point: torch.Tensor
    quant_min: int
    quant_max: int
    relu: bool


class Edges(NamedTuple):
    """outputs: Edge by id of the producer; dropped: ids of clipping modules that producers take over; pools: ids of
    max-poolings that codes pass."""

    outputs: dict[int, Edge]
    dropped: set[int]
    pools: set[int]


def find_edges(model: nn.Module) -> Edges:
    """The integer edges of a prepared model.

    A producer's value must be read by integer kernels only, on one grid, directly or through operations that commute with
    quantisation.

    Raises:
        Exception: whatever torch.fx says of a model that it cannot trace.
    """
    flow = Flow(model)
    found = Edges({}, set(), set())
    blocked: set[fx.Node] = set()
    while True:
        grids = _grids(flow, blocked)
        coded, edges = _coded(flow, grids)
        mixed = {n for n in flow.graph.nodes if len(p := flow.passes(n)) > 1 and n not in blocked and not all(v in coded for v in p)}
        if not mixed:
            break
        # A concatenation of codes with floats: none of its parts can be codes.
        blocked |= mixed
    for node, (edge, clamps) in edges.items():
        found.outputs[id(flow.module(node))] = edge
        found.dropped.update(map(id, clamps))
    found.pools.update(id(flow.module(n)) for n in coded if flow.kind(n) in MAX_POOL)
    return found


def _grids(flow: Flow, blocked: set[fx.Node]) -> dict[fx.Node, Grid | None]:
    """The grid on which all readers of each node's value read it, or None."""
    grids: dict[fx.Node, Grid | None] = {}
    for node in reversed(flow.graph.nodes):
        wanted: set[Grid | None] = set()
        for user in flow.users(node):
            if quantizers := flow.takes(user, node):
                wanted.update(_grid(q) for q in quantizers)
            elif node in flow.passes(user) and user not in blocked:
                grid = grids[user]
                wanted.add(None if grid is not None and flow.kind(user) in RELU and grid.zero_point != 0 else grid)
            else:
                wanted.add(None)
        grids[node] = wanted.pop() if len(wanted) == 1 else None
    return grids


def _grid(quantizer) -> Grid | None:
    if not quantizer.has_data():
        return None
    scale, zero_point = quantizer.eval_qparams()
    return Grid(float(scale), int(zero_point), quantizer.quant_min, quantizer.quant_max)


def _coded(flow: Flow, grids: dict) -> tuple[set[fx.Node], dict]:
    """The nodes whose values would be codes, and by producer its edge and the clippings it takes over."""
    coded: set[fx.Node] = set()
    edges = {}
    for node in flow.graph.nodes:
        if flow.gives(node):
            module = flow.module(node)
            clips = isinstance(module, (QatLayer, Add))
            clamps, last = flow.clamps(node) if clips else ([], node)
            edge = None if grids[last] is None else _edge(grids[last], clamps)
            if edge is None and grids[node] is not None:
                clamps, last, edge = [], node, _edge(grids[node], [])
            if edge is not None:
                edges[node] = edge, clamps
                coded.update((node, last))
        else:
            passed = flow.passes(node)
            if passed and grids[node] is not None and all(value in coded for value in passed):
                coded.add(node)
    return coded, edges


def _edge(grid: Grid, clamps: list[nn.Module]) -> Edge | None:
    scale, zero_point = torch.tensor(grid.scale), torch.tensor(grid.zero_point, dtype=torch.int32)
    low, high = grid.quant_min, grid.quant_max

    def code(value: float) -> int:
        x = torch.tensor(value)
        return int(torch.ops.torchqat.quantize(x, scale, zero_point, [], grid.quant_min, grid.quant_max, torch.int32))

    relu = False
    for least, most in map(clip_range, clamps):
        high = min(high, code(most))
        if least == 0.0:
            relu = True
        else:
            low = max(low, code(least))
    # The sign of the lower limit says which type the codes have; a grid of one code is none.
    if low >= high or (grid.quant_min < 0) != (low < 0):
        return None
    return Edge(scale, zero_point, low, high, relu)
