"""Operations in a form that a graph, ``vmap`` and a GPU can hold, with the same numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode

from zoo._broadcast import cholesky

aten = torch.ops.aten


class Gaussian(TorchFunctionMode):
    """Under ``vmap`` standard normal numbers come from ``torch.randn``: the same numbers, where it
    refuses ``empty().normal_()``. A Cholesky factor is NaN, and no error, where there is none."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inside = torch._C._functorch.maybe_current_level() is not None  # type: ignore[attr-defined]
        if inside and func is torch.Tensor.normal_ and len(args) == 1 and not kwargs:
            like = args[0]
            return torch.randn(like.shape, dtype=like.dtype, device=like.device)
        if func is torch.linalg.cholesky and len(args) == 1 and not kwargs:
            return cholesky(args[0])
        return func(*args, **kwargs)


def rewrite(graph: fx.GraphModule) -> list[str]:
    """Changes a graph as it was traced, in place; what in it cannot be changed: operations whose
    result has a shape that depends on values."""
    _draw_at_once(graph)
    varied = _varied(graph)
    for node in list(graph.graph.nodes):
        if node.target in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
            _number_masks(graph, node, varied)
    graph.recompile()
    return [str(node.target) for node in graph.graph.nodes if _open(node)]


def _draw_at_once(graph: fx.GraphModule) -> None:
    """``empty`` and ``normal_`` become ``randn``, the same numbers in one operation."""
    for node in graph.graph.nodes:
        if node.target is aten.normal_.default and len(node.args) == 1:
            made = node.args[0]
            if made.target is aten.empty.memory_format and len(made.users) == 1:
                node.target, node.args = aten.randn.default, made.args
                node.kwargs = made.kwargs


def _number_masks(graph: fx.GraphModule, node: fx.Node, varied: set[fx.Node]) -> None:
    """A mask that is always the same becomes the numbers of its places, which no host reads."""
    places: list[Any] = []
    for place in node.args[1]:  # type: ignore[union-attr]
        if place is None or not _is_mask(place) or place in varied:
            places.append(place)
            continue
        for numbers in _value(graph, place, {}).nonzero(as_tuple=True):
            name = f"_places{len(graph._buffers)}"
            graph.register_buffer(name, numbers)
            with graph.graph.inserting_before(node):
                places.append(graph.graph.get_attr(name))
            places[-1].meta["val"] = numbers
    node.args = (node.args[0], places, *node.args[2:])


def _varied(graph: fx.GraphModule) -> set[fx.Node]:
    """The operations whose results are not the same in every run."""
    found: set[fx.Node] = set()
    for node in graph.graph.nodes:
        tags = getattr(node.target, "tags", ())
        schema = getattr(node.target, "_schema", None)
        own = torch.Tag.nondeterministic_seeded in tags or (schema and schema.is_mutable)
        if node.op == "placeholder" or own or not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


def _value(graph: fx.GraphModule, node: fx.Node, known: dict[fx.Node, Any]) -> Any:
    """What an operation gives that is always the same."""
    if node not in known:

        def of(argument: fx.Node) -> Any:
            return _value(graph, argument, known)

        if node.op == "get_attr":
            known[node] = getattr(graph, str(node.target))
        else:
            args, kwargs = fx.map_arg((node.args, node.kwargs), of)  # type: ignore[misc]
            known[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    return known[node]


def _open(node: fx.Node) -> bool:
    """Whether an operation gives a tensor of a shape that depends on values."""
    if torch.Tag.dynamic_output_shape not in getattr(node.target, "tags", ()):
        return False
    places = node.args[1] if node.target is aten.index.Tensor else [node]
    return any(p is node or _is_mask(p) for p in places if p is not None)  # type: ignore[union-attr]


def _is_mask(place: Any) -> bool:
    value = place.meta["val"]
    return isinstance(value, Tensor) and value.dtype in (torch.bool, torch.uint8)
