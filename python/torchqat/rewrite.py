"""Modules put into a model where it calls functions: at a place of one module's own traced forward.

The module that owns the place becomes a torch.fx.GraphModule with the same children under the same names; a plain
nn.Sequential keeps its class. The same places can be filled again in another copy of the model, which is how files are loaded.
"""

from collections.abc import Callable

from torch import fx, nn
from torch.utils import _pytree as pytree


class Refused(Exception):
    """Why a module's forward cannot be rewritten."""


class _OwnTracer(fx.Tracer):
    """One module's own forward: everything it calls is a leaf."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return True


def own_graph(owner: nn.Module, unused: set[str] = frozenset()) -> fx.Graph:
    """The graph of a module's own forward. unused: children that it need not call.

    Raises:
        Refused: it cannot be traced, has hooks, calls not all of its children, or depends on the training mode.
    """
    hooks = (owner._forward_hooks, owner._forward_pre_hooks, owner._backward_hooks, owner._backward_pre_hooks)
    if any(hooks):
        raise Refused("it has hooks")
    graphs, mode = [], owner.training
    try:
        for owner.training in (not mode, mode):
            graphs.append(_OwnTracer().trace(owner))
    except Exception as error:  # noqa: BLE001 - tracing runs the model's own code
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise Refused(f"torch.fx cannot trace it ({reason})") from error
    finally:
        owner.training = mode
    if str(graphs[0]) != str(graphs[1]):
        raise Refused("its forward depends on the training mode")
    called = {node.target for node in graphs[1].nodes if node.op == "call_module"}
    for name, child in owner.named_modules():
        held = list(child.parameters(recurse=False)) or list(child.buffers(recurse=False))
        if name and held and name.partition(".")[0] not in unused and not any(name == c or name.startswith(f"{c}.") for c in called):
            raise Refused(f"its forward does not call {name!r}")
    return graphs[1]


def functions(graph: fx.Graph) -> list[fx.Node]:
    """The nodes that a place ("function", i) counts."""
    return [node for node in graph.nodes if node.op in ("call_function", "call_method")]


def replace_function(node: fx.Node, name: str, inputs: tuple) -> None:
    """Let submodule `name`, called with `inputs`, stand for a function's node."""
    graph = node.graph
    with graph.inserting_before(node):
        new = graph.create_node("call_module", name, inputs)
    node.replace_all_uses_with(new)
    graph.erase_node(node)


def module_of(owner: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """A module that runs the graph on owner's children; in owner's mode."""
    module = fx.GraphModule(owner, graph, type(owner).__name__)
    for name, child in module.named_modules():
        child.training = owner.get_submodule(name).training
    return module


def free_name(owner: nn.Module, wanted: str) -> str:
    name, count = wanted, 0
    while hasattr(owner, name):
        count += 1
        name = f"{wanted}_{count}"
    return name


def append_outputs(model: nn.Module, make: Callable[[int], nn.Module]) -> nn.Module:
    """The model with make(i) called on its i-th output tensor.

    Raises:
        Refused: its forward cannot be rewritten.
    """
    if type(model) is nn.Sequential:
        model.add_module(free_name(model, "output_fake_quant"), make(0))
        return model
    graph = own_graph(model)
    output = next(node for node in graph.nodes if node.op == "output")
    leaves, spec = pytree.tree_flatten(output.args[0])
    if not leaves or not all(isinstance(leaf, fx.Node) for leaf in leaves):
        raise Refused("its outputs are not all tensors")
    placed: dict[fx.Node, fx.Node] = {}
    for leaf in leaves:
        if leaf not in placed:
            name = free_name(model, "output_fake_quant")
            model.add_module(name, make(len(placed)))
            with graph.inserting_before(output):
                placed[leaf] = graph.call_module(name, (leaf,))
    output.args = (pytree.tree_unflatten([placed[leaf] for leaf in leaves], spec),)
    return module_of(model, graph)


def place_functions(owner: nn.Module, forms: dict[int, tuple[str, nn.Module]]) -> nn.Module:
    """The owner with submodules (name, form), already registered, in place of functions, by index among its calls.

    Raises:
        Refused: its forward cannot be rewritten, or has no such call.
    """
    graph = own_graph(owner, set(name for name, _ in forms.values()))
    calls = functions(graph)
    if any(i >= len(calls) for i in forms):
        raise Refused("its forward has fewer calls")
    for i, (name, form) in forms.items():
        inputs = [a for a in calls[i].args if isinstance(a, fx.Node)][: form.input_count]
        if len(inputs) != form.input_count:
            raise Refused(f"call {i} of its forward takes other arguments")
        replace_function(calls[i], name, tuple(inputs))
    return module_of(owner, graph)


def fill_places(model: nn.Module, forms: dict[str, nn.Module]) -> nn.Module:
    """The model with forms, by name, put where their `place` says; those that took a module's place are left alone.

    Raises:
        Refused: an owner's forward cannot be rewritten, or has no such place.
        AttributeError: there is no such owner.
    """
    owners: dict[str, dict[str, nn.Module]] = {}
    for name, form in forms.items():
        if form.place[0] != "module":
            owners.setdefault(name.rpartition(".")[0], {})[name.rpartition(".")[2]] = form
    for path, inside in owners.items():
        owner = model.get_submodule(path)
        calls = {form.place[1]: (name, form) for name, form in inside.items() if form.place[0] == "function"}
        for name, form in calls.values():
            owner.add_module(name, form)
        if calls:
            owner = place_functions(owner, calls)
            model = _with_owner(model, path, owner)
        outputs = {form.place[1]: form for form in inside.values() if form.place[0] == "output"}
        if outputs:
            model = _with_owner(model, path, append_outputs(owner, lambda i: _place(outputs, i)))
    return model


def _place(forms: dict, i: int) -> nn.Module:
    if i not in forms:
        raise Refused(f"it has an output {i} of which the forms know nothing")
    return forms[i]


def _with_owner(model: nn.Module, path: str, owner: nn.Module) -> nn.Module:
    if not path:
        return owner
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent)._modules[name] = owner
    return model
