"""A network as a graph of tensors: where it can be cut, and how both sides of a cut are run.

The graph comes from ``torch.export`` and knows for each operation which module it came from. What lies behind a
cut is run from the modules themselves wherever a module lies behind it as a whole (so dropout, stochastic depth
and batch norm are live, and the parameters are the network's own); only what joins them is run from the graph.
"""

from __future__ import annotations

import logging
import operator
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate
from torch.utils.flop_counter import FlopCounterMode

from regraft.errors import BackboneError
from regraft.networks.readouts import INPUT, NETWORK, pool
from regraft.records.networks import Cut, Readout

#: Name of the cut in front of the first layer.
FRONT = "input"

#: Images in the trace: neither 1 nor anything a network has for another reason.
_TRACED = 2

#: Where a module run by itself differs from its part of the graph by more than this, the part is used.
_AGREES = 1e-5

_dropout = torch.ops.aten.dropout.default


@dataclass(frozen=True)
class _Call:
    """One run of a module: the operations [first, last] that came of it, what goes in and what comes out."""

    key: str
    module: str
    first: int
    last: int
    given: fx.Node | None
    made: fx.Node | None

    def inside(self, position: int) -> bool:
        """Whether an operation is part of it."""
        return self.first <= position <= self.last


@dataclass
class _Facts:
    """What one run of the graph found out, by position."""

    shapes: dict[int, tuple[int, ...]] = field(default_factory=dict)
    multiply_adds: list[int] = field(default_factory=list)
    closed: set[str] = field(default_factory=set)  # calls that may be run as their module


#: How :func:`regraft.networks.readouts.find_readouts` names stages; what a plan reads besides has other names.
_STAGE = re.compile(r"stage\d+")


class Graph:
    """A traced classifier. ``module`` is the network itself, not a copy.

    ``cuts`` holds every place with exactly one tensor alive, in order; those with ``trainable`` can have what
    lies behind them trained.

    Raises BackboneError where the network can't be traced for any number of images.
    """

    def __init__(self, module: nn.Module, size: int, readouts: Sequence[Readout]) -> None:
        self.module = module
        self.readouts = {readout.name: readout for readout in readouts}
        self._program = trace(module, size)
        self.nodes = [node for node in self._program.graph.nodes if node.op in ("call_function", "output")]
        self._position = {node: at for at, node in enumerate(self.nodes)}
        self._image = next(node for node in self._program.graph.nodes if node.op == "placeholder")
        self._position[self._image] = -1
        self._batch = self._image.meta["val"].shape[0]
        self._live = self._find_live()
        self._calls = self._find_calls()
        self._facts = self._look(size)

    # -- what is where -----------------------------------------------------------------------------

    def _find_live(self) -> set[fx.Node]:
        """Operations whose result depends on the picture."""
        live = {self._image}
        for node in self.nodes:
            if not _is_size(node) and any(given in live for given in node.all_input_nodes):
                live.add(node)
        return live

    def _find_calls(self) -> dict[str, _Call]:
        """Runs of modules by key, outer ones first."""
        members: dict[str, tuple[str, list[int]]] = {}
        for at, node in enumerate(self.nodes):
            for key, (name, _) in (node.meta.get("nn_module_stack") or {}).items():
                members.setdefault(key, (name.partition("@")[0], []))[1].append(at)
        return {key: self._call(key, name, places) for key, (name, places) in
                sorted(members.items(), key=lambda item: (item[1][1][0], -len(item[1][1])))}

    def _call(self, key: str, name: str, places: list[int]) -> _Call:
        first, last = places[0], places[-1]
        whole = len(places) == last - first + 1
        given = {node for at in places for node in self.nodes[at].all_input_nodes
                 if node in self._live and not first <= self._position[node] <= last}
        made = [self.nodes[at] for at in places if self.nodes[at] in self._live
                and any(self._position.get(user, last) > last and not _is_size(user) for user in self.nodes[at].users)]
        one = whole and len(given) == 1 and len(made) == 1
        return _Call(key, name, first, last, given.pop() if one else None, made[0] if one else None)

    def _of_readout(self, readout: Readout) -> _Call | None:
        name = readout.node.removesuffix(INPUT)
        found = [call for call in self._calls.values() if call.module == name]
        if not found:
            return None
        return found[-1] if not readout.node.endswith(INPUT) else found[0]

    @cached_property
    def _read_at(self) -> dict[str, fx.Node]:
        """The tensor that each readout pools; those are left out whose module leaves no trace."""
        found: dict[str, fx.Node] = {}
        for readout in self.readouts.values():
            if readout.node == NETWORK:
                found[readout.name] = self.nodes[-1].all_input_nodes[0]
                continue
            call = self._of_readout(readout)
            if call is None:
                continue
            if readout.node.endswith(INPUT):
                first = self.nodes[call.first]
                found[readout.name] = call.given or next(n for n in first.all_input_nodes if n in self._live)
            else:
                found[readout.name] = call.made or self.nodes[call.last]
        return found

    # -- running -----------------------------------------------------------------------------------

    def value(self, node: fx.Node, batch: int) -> Any:
        """What does not depend on the picture's pixels: a parameter, a buffer, or a size for so many images."""
        if node.op == "get_attr":
            path = str(node.target)
            try:
                return operator.attrgetter(path)(self.module)
            except AttributeError:  # a constant of the trace
                return operator.attrgetter(path)(self._program)
        meant = node.meta["val"]
        if isinstance(meant, torch.SymInt):
            expression = meant.node.expr
            return int(expression.subs(dict.fromkeys(expression.free_symbols, batch)))
        return meant

    def evaluate(self, node: fx.Node, values: dict[Any, Any], batch: int, device: torch.device) -> Any:
        """Run one operation on what is at hand; parameters and what is derived from them are fetched."""

        def fetch(given: Any) -> Any:
            if not isinstance(given, fx.Node):
                return given
            if given not in values:
                found = (self.value(given, batch) if given.op == "get_attr" or _is_size(given)
                         else self.evaluate(given, values, batch, device))
                # A constant of the trace stays where it was traced.
                values[given] = found.to(device) if isinstance(found, Tensor) else found
            return values[given]

        args, kwargs = map_aggregate(node.args, fetch), dict(map_aggregate(node.kwargs, fetch))
        if "device" in kwargs:
            kwargs["device"] = device
        if node.target is _dropout:
            args = (*args[:2], self.owner(node).training)
        operation: Callable[..., Any] = node.target  # type: ignore[assignment]
        return operation(*args, **kwargs)

    def owner(self, node: fx.Node) -> nn.Module:
        """The innermost module that an operation came from."""
        name, _ = next(reversed(node.meta["nn_module_stack"].values()))
        return self.module.get_submodule(name.partition("@")[0])

    def _look(self, size: int) -> _Facts:
        """Run the graph once: shapes, multiply-adds, and which calls equal their module."""
        facts = _Facts()
        device = next(self.module.parameters()).device
        generator = torch.Generator().manual_seed(0)
        image = torch.rand((_TRACED, 3, size, size), generator=generator).to(device)
        values: dict[fx.Node, Any] = {self._image: image}
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            before = 0
            for at, node in enumerate(self.nodes[:-1]):
                if node in self._live:
                    values[node] = self.evaluate(node, values, _TRACED, device)
                    if isinstance(values[node], Tensor):
                        facts.shapes[at] = tuple(values[node].shape)
                total = counter.get_total_flops()
                facts.multiply_adds.append((total - before) // (2 * _TRACED))
                before = total
        facts.multiply_adds.append(0)
        return self._compare(facts, image)

    def _compare(self, facts: _Facts, image: Tensor) -> _Facts:
        """Run maximal modules in place of their parts, and note which do the same."""
        values: dict[fx.Node | None, Any] = {self._image: image}
        with torch.no_grad():
            calls = [call for call in self._calls.values() if call.given is not None and call.made is not None]
            starting: dict[int, list[_Call]] = {}
            for call in calls:
                starting.setdefault(call.first, []).append(call)
            done: dict[str, Tensor] = {}
            for at, node in enumerate(self.nodes[:-1]):
                for call in starting.get(at, ()):
                    alone = _try(self.module, call.module, values.get(call.given))
                    if alone is not None:
                        done[call.key] = alone
                if node in self._live:
                    values[node] = self.evaluate(node, values, len(image), image.device)
                for call in calls:
                    if call.last == at and call.key in done and _same(done.pop(call.key), values.get(call.made)):
                        facts.closed.add(call.key)
        return facts

    def plan(self, wanted: Iterable[fx.Node], after: int, before: int) -> list[_Call | fx.Node]:
        """Modules and operations that turn what is alive at ``after`` into the wanted tensors, in order."""
        needed = self._needed(wanted, after)
        steps: list[_Call | fx.Node] = []
        covered = after
        closed = [call for call in self._calls.values() if call.key in self._facts.closed and call.first > after
                  and call.last < before and not self._opened(call)]
        by_first: dict[int, _Call] = {}
        for call in closed:  # outer calls come first
            by_first.setdefault(call.first, call)
        for at in range(after + 1, before):
            if at <= covered or self.nodes[at] not in needed:
                continue
            whole = by_first.get(at)
            if whole is not None and whole.made in needed:
                steps.append(whole)
                covered = whole.last
            else:
                steps.append(self.nodes[at])
        return steps

    def _opened(self, call: _Call) -> bool:
        """Whether something inside is read, so that the module can't be run as a whole."""
        return any(call.inside(self._position[node]) and node is not call.made for node in self._read_at.values())

    def _needed(self, wanted: Iterable[fx.Node], after: int) -> set[fx.Node]:
        """Live operations behind a place that the wanted tensors come from."""
        needed: set[fx.Node] = set()
        waiting = [node for node in wanted if self._position[node] > after]
        while waiting:
            node = waiting.pop()
            if node not in needed:
                needed.add(node)
                waiting += [n for n in node.all_input_nodes if n in self._live and self._position[n] > after]
        return needed

    # -- cuts --------------------------------------------------------------------------------------

    @cached_property
    def cuts(self) -> tuple[Cut, ...]:
        """Every place where exactly one tensor is alive, one row an image; the front first."""
        return tuple(self._cuts())

    def _cuts(self) -> Iterator[Cut]:
        last_use = {node: max((self._position[user] for user in node.users if user in self._position
                               and not _is_size(user)), default=-1) for node in self._live}
        alive: list[fx.Node] = []
        total = sum(self._facts.multiply_adds)
        done = 0
        size = tuple(self._image.meta["val"].shape[1:])
        behind = self._parameters_behind()
        yield Cut(FRONT, "", -1, tuple(map(int, size)), behind[-1], total, True, "")
        for at, node in enumerate(self.nodes[:-1]):
            done += self._facts.multiply_adds[at]
            if node not in self._live:
                continue
            alive = [n for n in alive if last_use[n] > at] + ([node] if last_use[node] > at else [])
            if len(alive) != 1 or alive[0] is not node:
                continue
            meant = node.meta.get("val")
            if not isinstance(meant, Tensor) or str(meant.shape[0]) != str(self._batch):
                continue
            reason = self._untrainable(at)
            shape = self._facts.shapes[at][1:]
            yield Cut(node.name, self._scope(node), at, shape, behind[at], total - done, not reason, reason)

    def _scope(self, node: fx.Node) -> str:
        """The largest module that ends with an operation, else the one it is part of."""
        at = self._position[node]
        ending = [call.module for call in self._calls.values() if call.last == at and call.module]
        if ending:
            return ending[0]
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        return stack[-1][0].partition("@")[0] if stack else ""

    def _parameters_behind(self) -> dict[int, int]:
        """Parameters first used behind each place."""
        first_use = self.first_use
        sizes = {name: p.numel() for name, p in self.module.named_parameters()}
        behind, total = {}, 0
        starting: dict[int, int] = {}
        for name, at in first_use.items():
            starting[at] = starting.get(at, 0) + sizes[name]
        for at in range(len(self.nodes) - 1, -2, -1):
            behind[at] = total
            total += starting.get(at, 0)
        return behind

    @cached_property
    def first_use(self) -> dict[str, int]:
        """Position of the first operation on a picture's tensor that uses each parameter, by the parameter's name."""
        names = {id(p): name for name, p in self.module.named_parameters()}
        derived: dict[fx.Node, set[str]] = {}
        used: dict[str, int] = {}

        def parameters(node: fx.Node) -> set[str]:
            if node in self._live:
                return set()
            if node not in derived:
                if node.op == "get_attr":
                    name = names.get(id(self.value(node, _TRACED)))
                    derived[node] = {name} if name else set()
                else:
                    derived[node] = set().union(*(parameters(n) for n in node.all_input_nodes))
            return derived[node]

        for at, node in enumerate(self.nodes):
            if node in self._live or node.op == "output":
                for given in node.all_input_nodes:
                    for name in parameters(given):
                        used.setdefault(name, at)
        return used

    def _untrainable(self, at: int) -> str:
        """Why what lies behind a place can't be run in training mode, or nothing."""
        for name in self._traceless:
            holders = [call for call in self._calls.values() if _contains(call.module, name)]
            inner = max((call.module for call in holders), key=len)
            for call in holders:
                whole = any(c.first > at and c.first <= call.first and call.last <= c.last
                            and c.key in self._facts.closed and not self._opened(c) for c in self._calls.values())
                if call.module == inner and call.last > at and not whole:
                    return f"{name} acts only in training, and leaves no trace in a module that would be cut"
        return ""

    @cached_property
    def _traceless(self) -> tuple[str, ...]:
        """Modules that do something in training mode and nothing in inference, so that the graph misses them."""
        traced = {call.module for call in self._calls.values()}
        return tuple(name for name, module in self.module.named_modules()
                     if name not in traced and not any(True for _ in module.children()) and _acts_in_training(module))

    def cut_for(self, learning: Iterable[str]) -> Cut:
        """The latest trainable cut before everything that the named parameters do; the front at the earliest.

        A place with no parameter before it, as behind a padding of the picture, is the front too.
        """
        uses = [self.first_use[name] for name in learning if name in self.first_use]
        limit = min(uses, default=len(self.nodes) - 1)
        front = self.cuts[0]
        cut = next(cut for cut in reversed(self.cuts) if cut.trainable and cut.position < limit)
        return front if cut.parameters == front.parameters else cut

    def used_by(self, readouts: Iterable[Readout]) -> tuple[str, ...]:
        """Names of the parameters that some readouts depend on, in the network's order."""
        needed = self._needed([self.read_at(readout) for readout in readouts], -1)
        places = {self._position[node] for node in needed}
        return tuple(name for name, _ in self.module.named_parameters() if self.first_use.get(name) in places)

    def tensors_before(self, cut: Cut) -> tuple[str, ...]:
        """Names of the parameters and buffers that what is before a cut depends on."""
        own = [name for name, at in self.first_use.items() if at <= cut.position]
        holders = {name.rpartition(".")[0] for name in own}
        return (*own, *(name for name, _ in self.module.named_buffers() if name.rpartition(".")[0] in holders))

    def readouts_before(self, cut: Cut) -> tuple[Readout, ...]:
        """Readouts at or before a cut."""
        return tuple(self.readouts[name] for name, node in self._read_at.items()
                     if self._position[node] <= cut.position)

    def in_order(self, names: Iterable[str]) -> tuple[str, ...]:
        """Names of readouts in the order in which the network makes them; what leaves no trace comes last."""
        position = {name: self._position[node] for name, node in self._read_at.items()}
        known = list(self.readouts)
        return tuple(sorted(names, key=lambda name: (position.get(name, len(self.nodes)), known.index(name))))

    @cached_property
    def stage_ends(self) -> dict[str, int]:
        """Position of the last operation of each stage, by the stage's name, in order."""
        return {name: self._position[node] for name, node in self._read_at.items() if _STAGE.fullmatch(name)}

    def place(self, at: int) -> tuple[str, tuple[int, ...]]:
        """The largest module that ends with an operation, else the one it is part of; what it makes of one image."""
        return self._scope(self.nodes[at]), self._facts.shapes.get(at, ())[1:]

    def operation(self, at: int) -> tuple[str, tuple[int, ...], tuple[int, ...], int]:
        """Name, shape of the tensor in and out (one image) and groups of the operation at a position."""
        node = self.nodes[at]
        name = str(getattr(node.target, "__name__", node.target)).partition(".")[0].rstrip("_")
        given = next((n for n in node.all_input_nodes if n in self._live), None)
        before = () if given is None else self._facts.shapes.get(self._position[given], ())[1:]
        groups = 1
        if name == "conv2d" and node in self._live:
            weight = self.value(node.all_input_nodes[1], _TRACED)
            groups = before[0] // weight.shape[1] if before else 1
        return name, before, self._facts.shapes.get(at, ())[1:], groups

    def tensor(self, cut: Cut) -> fx.Node:
        """The one tensor that is alive at a cut."""
        node: fx.Node = self._image if cut.position < 0 else self.nodes[cut.position]
        return node

    def read_at(self, readout: Readout) -> fx.Node:
        """The tensor that a readout pools; raises BackboneError where its module leaves no trace."""
        if readout.name not in self._read_at:
            raise BackboneError(f"the network's {readout.node.removesuffix(INPUT)} leaves no trace, so nothing behind "
                                f"{readout.name} can learn; read another of {', '.join(self._read_at)}")
        return self._read_at[readout.name]


class Segment(nn.Module):
    """A part of a network: from the tensor alive at one place to a number of others.

    Its parameters are the network's own, and so is its mode: ``train`` and ``eval`` of the network's modules
    decide how dropout, stochastic depth and batch norm behave.
    """

    def __init__(self, graph: Graph, start: Cut, wanted: Sequence[fx.Node]) -> None:
        super().__init__()
        self._graph = [graph]  # in a list: the network is not this module's child
        self._start = graph.tensor(start)
        self._wanted = tuple(wanted)
        ends = [graph.nodes.index(node) for node in wanted if node.op == "call_function"]
        steps = graph.plan(wanted, start.position, max(ends, default=start.position) + 1)
        # What a later operation changes in place is kept as it was.
        self._kept = {node for node in wanted if any(_in_place(user) for user in node.users)}
        self._steps: list[tuple[_Call | fx.Node, nn.Module | None]] = [
            (step, graph.module.get_submodule(step.module) if isinstance(step, _Call) else None) for step in steps]
        self._last_use = self._uses(steps)

    @property
    def modules_run(self) -> tuple[nn.Module, ...]:
        """Every module that is run here, as a whole or by a part of its own."""
        found: dict[int, nn.Module] = {}
        for step, module in self._steps:
            if module is not None:
                found.update((id(part), part) for part in module.modules())
            elif isinstance(step, fx.Node) and step.meta.get("nn_module_stack"):
                owner = self._graph[0].owner(step)
                found[id(owner)] = owner
        return tuple(found.values())

    def _uses(self, steps: list[_Call | fx.Node]) -> dict[int, list[fx.Node]]:
        """Tensors that nothing needs any more after each step."""
        last: dict[fx.Node, int] = {}
        for number, step in enumerate(steps):
            given = [step.given] if isinstance(step, _Call) else step.all_input_nodes
            last.update({node: number for node in given if node is not None})
        gone: dict[int, list[fx.Node]] = {}
        for node, number in last.items():
            if node not in self._wanted:
                gone.setdefault(number, []).append(node)
        return gone

    def forward(self, x: Tensor) -> list[Tensor]:
        """The wanted tensors of what is alive at the start, [B, ...]."""
        graph = self._graph[0]
        values: dict[fx.Node, Any] = {self._start: x}
        kept: dict[fx.Node, Tensor] = {self._start: x.clone()} if self._start in self._kept else {}
        for number, (step, module) in enumerate(self._steps):
            if isinstance(step, _Call):
                assert step.given is not None
                assert step.made is not None
                assert module is not None
                made = step.made
                values[made] = module(values[step.given])
            else:
                made = step
                values[made] = graph.evaluate(step, values, len(x), x.device)
            if made in self._kept:
                kept[made] = values[made].clone()
            for node in self._last_use.get(number, ()):
                values.pop(node, None)
        return [kept[node] if node in kept else values[node] for node in self._wanted]


class Prefix(nn.Module):
    """The frozen part: normalised pictures to pooled readouts and, last, the tensor at the cut, all joined flat."""

    def __init__(self, graph: Graph, cut: Cut, readouts: Sequence[Readout]) -> None:
        super().__init__()
        self._readouts = tuple(readouts)
        front = next(c for c in graph.cuts if c.position < 0)
        self._segment = Segment(graph, front, [*(graph.read_at(r) for r in readouts), graph.tensor(cut)])

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, S, S] to [B, D]."""
        *read, activation = self._segment(x)
        pooled = [pool(t, r.pooling if t.ndim > 2 else "none") for t, r in zip(read, self._readouts, strict=True)]
        return torch.cat([*pooled, activation.flatten(1).float()], 1)


class Suffix(nn.Module):
    """The part that learns: the tensor at the cut to pooled readouts behind it, joined, fp32 [B, D]."""

    def __init__(self, graph: Graph, cut: Cut, readouts: Sequence[Readout]) -> None:
        super().__init__()
        self._readouts = tuple(readouts)
        self._segment = Segment(graph, cut, [graph.read_at(readout) for readout in readouts])

    @property
    def modules_run(self) -> tuple[nn.Module, ...]:
        """See :attr:`Segment.modules_run`."""
        return self._segment.modules_run

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] (or what is alive at the cut) to [B, D]."""
        read = self._segment(x)
        return torch.cat([pool(t, r.pooling if t.ndim > 2 else "none")
                          for t, r in zip(read, self._readouts, strict=True)], 1)


def trace(module: nn.Module, size: int) -> fx.GraphModule:
    """The network's operations on pictures of one size, any number of them, in inference mode.

    Raises BackboneError where it can't be traced so.
    """
    module.eval()
    device = next(module.parameters()).device
    logger = logging.getLogger("torch.export")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(action="ignore"):  # PyTorch's advice to authors of networks
            exported = torch.export.export(
                module, (torch.zeros(_TRACED, 3, size, size, device=device),), strict=False,
                dynamic_shapes=({0: torch.export.Dim.AUTO},))
            program: fx.GraphModule = exported.module()
    except Exception as error:  # Tracing runs the network's own code, which may fail in any way.
        reason = str(error).strip().splitlines()
        raise BackboneError(f"the network can't be traced ({reason[0] if reason else type(error).__name__}), so only "
                            "frozen features and training all of it are possible") from None
    finally:
        logger.setLevel(level)
    image = next(node for node in program.graph.nodes if node.op == "placeholder")
    if not isinstance(image.meta["val"].shape[0], torch.SymInt):
        raise BackboneError("the network works for one number of images at a time only, so it can't be cut")
    return program


def _is_size(node: fx.Node) -> bool:
    """Whether a value is a number, not a tensor."""
    return isinstance(node.meta.get("val"), int | float | bool | torch.SymInt | torch.SymFloat | torch.SymBool)


def _in_place(node: fx.Node) -> bool:
    name = getattr(node.target, "__name__", "").partition(".")[0]
    return name.endswith("_") and not name.endswith("__")


def _try(network: nn.Module, name: str, given: Any) -> Tensor | None:
    """What a module inside the network makes of a tensor by itself, or None."""
    if not name or not isinstance(given, Tensor):
        return None
    try:
        made = network.get_submodule(name)(given.clone())
    except Exception:  # It wants more than one argument, or anything else its author thought of.
        return None
    return made if isinstance(made, Tensor) else None


def _same(a: Tensor, b: Any) -> bool:
    return (isinstance(b, Tensor) and a.shape == b.shape
            and float((a - b).abs().max()) <= _AGREES * max(1.0, float(b.abs().max())))


def _contains(outer: str, inner: str) -> bool:
    return outer == "" or inner == outer or inner.startswith(f"{outer}.")


def _acts_in_training(module: nn.Module) -> bool:
    """Whether a module without parts is one of those that drop something while training."""
    for name in ("p", "drop_prob"):
        share = getattr(module, name, None)
        if isinstance(share, float | int) and not isinstance(share, bool):
            return share > 0
    return False
