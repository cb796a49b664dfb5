"""The factors of overlays, layer by layer, and the hook that adds them to a layer's output."""

from __future__ import annotations

import hashlib
import math
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastweights.optim.overlay_buffers import Buffers
from fastweights.optim.overlay_fading import Fading, clock, strength_now
from fastweights.optim.overlay_layers import Kind

__all__ = ["Part", "Selection", "Site", "State", "first_factors", "part_of"]

_TINY = 1e-30  # below it, fading would only make numbers that processors are slow with

# By the ids of their factors, for whoever sees an optimizer move one.
_PARTS: weakref.WeakValueDictionary[int, Part] = weakref.WeakValueDictionary()


def part_of(parameter: Tensor) -> Part | None:
    """The part of an overlay that has this factor."""
    part = _PARTS.get(id(parameter))
    mine = part is not None and (part.a is parameter or part.b is parameter)
    return part if mine else None


def first_factors(
    kind: Kind, layer: nn.Module, rank: int, seed: int, path: str
) -> tuple[Tensor, Tensor]:
    """A random factor and one of zeros: the same in every process, whatever was drawn before."""
    digest = hashlib.sha256(f"{seed}/{path}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    weight = getattr(layer, "weight", None)
    double = isinstance(weight, Tensor) and weight.dtype == torch.float64
    dtype = torch.float64 if double else torch.float32
    factors = [torch.zeros(shape, dtype=dtype) for shape in kind.shapes(layer, rank)]
    drawn = factors[1 - kind.fading]
    bound = math.sqrt(3 / rank) if kind.fading == 0 else 1 / math.sqrt(math.prod(drawn.shape[1:]))
    drawn.uniform_(-bound, bound, generator=generator)
    return factors[0], factors[1]


class State:
    """What the parts of one overlay have in common.

    Attributes:
        rank: the largest of its parts.
        parts: by the names of the layers in the model.
        since: the time up to which fading by the clock is in the factors already.
        group: the processes over which gradients are averaged, None for all, False for none.
        removed: whether it is in no model any more.
    """

    def __init__(self, name: str, rank: int, fading: Fading, seed: int, group: Any) -> None:
        self.name = name
        self.rank = rank
        self.fading = fading
        self.seed = seed
        self.group = group
        self.since = clock()
        self.parts: dict[str, Part] = {}
        self.removed = False
        self._start()

    def _start(self) -> None:
        self._optimizers: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._fades = 0

    @torch.no_grad()
    def fade(self, keep: float | Tensor, parts: list[Part] | None = None) -> None:
        """Make the product of the factors ``keep`` times what it is."""
        faded: list[Tensor] = [p.fading for p in (self.parts.values() if parts is None else parts)]
        torch._foreach_mul_(faded, keep)
        self._fades += 1
        if parts is None or self._fades % 128 == 0:
            for factor in faded:
                factor.masked_fill_(factor.abs() < _TINY, 0.0)

    def catch_up(self) -> None:
        """Put into the factors what has faded by the clock until now."""
        if self.fading.by_clock:
            now = clock()
            self.fade(self.fading.keep(max(0.0, now - self.since)))
            self.since = now

    def moved_by(self, optimizer: torch.optim.Optimizer) -> None:
        """Say that this optimizer moves factors of this overlay."""
        self._optimizers.add(optimizer)

    @torch.no_grad()
    def fade_momentum(self, keep: float, parameters: list[nn.Parameter]) -> None:
        """Fade what optimizers would go on to add: it was learned at the same time."""
        for optimizer in self._optimizers:
            for parameter in parameters:
                remembered = optimizer.state.get(parameter, {})
                for key in ("momentum_buffer", "exp_avg"):
                    if isinstance(remembered.get(key), Tensor):
                        remembered[key].mul_(keep)

    def __getstate__(self) -> dict[str, Any]:
        # Neither optimizers nor groups of processes go into a copy.
        kept = {k: v for k, v in self.__dict__.items() if k not in ("_optimizers", "_fades")}
        return {**kept, "group": False if self.group is False else None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()


class Part:
    """The two factors that one overlay has at one layer."""

    def __init__(self, state: State, kind: Kind, a: Tensor, b: Tensor) -> None:
        self.state = state
        self.kind = kind.name
        self._fading = kind.fading
        with torch.inference_mode(False):
            self.a, self.b = nn.Parameter(a.clone()), nn.Parameter(b.clone())
        self._register()

    def _register(self) -> None:
        from fastweights.optim.overlay_steps import watch_steps  # which asks for parts

        watch_steps()
        for factor in (self.a, self.b):
            _PARTS[id(factor)] = self
            factor.register_post_accumulate_grad_hook(self._average)

    @property
    def fading(self) -> nn.Parameter:
        """The factor that starts at zero and fades."""
        return self.b if self._fading else self.a

    def factors(self, dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
        """A and B as they are now, in a dtype or their own."""
        a: Tensor = self.a
        b: Tensor = self.b
        state = self.state
        if state.fading.by_clock:
            left = strength_now(self.fading, state.since, state.fading)
            faded: Tensor = self.fading
            # The gradient is that of the faded factor, which is what the optimizer will move.
            faded = faded + (left - 1.0) * faded.detach()
            a, b = (a, faded) if self._fading else (faded, b)
        if dtype is not None and a.dtype != dtype:
            a, b = a.to(dtype), b.to(dtype)
        return a, b

    def move(self, device: torch.device) -> None:
        """Follow the layer to another device, as parameters of a module do."""
        with torch.inference_mode(False):
            for factor in (self.a, self.b):
                factor.data = factor.data.to(device)
                if factor.grad is not None:
                    factor.grad.data = factor.grad.data.to(device)

    def _average(self, factor: Tensor) -> None:
        """Average a gradient over the processes that train together."""
        distributed, group = torch.distributed, self.state.group
        if group is False or not distributed.is_available() or not distributed.is_initialized():
            return
        size = distributed.get_world_size(group)
        if size > 1 and factor.grad is not None:
            distributed.all_reduce(factor.grad, group=group)
            factor.grad.div_(size)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._register()


class Selection:
    """Which overlays of a model are on; shared by all of its layers.

    Attributes:
        states: all overlays, in the order in which they were attached.
        on: the names of those that are on, in that order.
        samples: the overlay of each sample of a batch, inside `Overlays.per_sample`.
        stacks: the factors of the samples, layer by layer, while nothing learns.
    """

    def __init__(self, buffers: Buffers) -> None:
        self.states: dict[str, State] = {}
        self.on: tuple[str, ...] = ()
        self.samples: tuple[str | None, ...] | None = None
        self.stacks: dict[str, tuple[Any, Any, Tensor]] = {}
        self.buffers = buffers

    @property
    def key(self) -> tuple[str, ...] | None:
        """What the buffers belong to now."""
        return self.on if self.samples is None else None

    def show(
        self, model: nn.Module, on: set[str], samples: tuple[str | None, ...] | None = None
    ) -> None:
        """Switch on exactly these."""
        names = tuple(name for name in self.states if name in on)
        self.buffers.change(model, self.key, names if samples is None else None)
        self.on, self.samples, self.stacks = names, samples, {}


class Site:
    """The forward hook of a layer that overlays are laid over."""

    def __init__(self, kind: Kind, path: str, selection: Selection) -> None:
        self.kind = kind
        self.path = path
        self.selection = selection
        self.parts: dict[str, Part] = {}

    def __call__(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor
    ) -> Tensor:
        selection = self.selection
        if selection.samples is not None:
            return self._add_each(layer, _input(args, kwargs, out), out, selection.samples)
        for name in selection.on:
            part = self.parts.get(name)
            if part is not None:
                x = _input(args, kwargs, out)
                dtype = self._follow(part, x, out)
                if dtype is not None and x.is_floating_point() and x.dtype != dtype:
                    x = x.to(dtype)
                fresh = dtype is not None and not torch.is_grad_enabled() and _is_fresh(layer)
                out = self.kind.add(layer, x, out, *part.factors(dtype), fresh=fresh)
        return out

    def _follow(self, part: Part, x: Tensor, out: Tensor) -> torch.dtype | None:
        """Put the factors where the layer is; the dtype to compute in, None for autocast's."""
        if part.a.device != out.device and not torch.compiler.is_compiling():
            part.move(out.device)
        if torch.is_autocast_enabled(out.device.type):
            return None  # casts by itself, and once where a layer is called several times
        if not x.is_floating_point():
            return out.dtype
        if x.dtype in _HALVES and x.device.type == "cpu" and not torch.compiler.is_compiling():
            rows = x.numel() // max(1, x.shape[-1])
            # Processors start up longer for half precision than they then compute.
            return torch.float32 if rows < _FEW_ROWS and not self.kind.spatial else x.dtype
        return x.dtype

    def _add_each(
        self, layer: nn.Module, x: Tensor, out: Tensor, samples: tuple[str | None, ...]
    ) -> Tensor:
        parts = [self.parts.get(name) if name is not None else None for name in samples]
        there = [part for part in parts if part is not None]
        if not there:
            return out
        if x.dim() < 2 - (not x.is_floating_point()) or len(x) != len(samples):
            raise ValueError(
                f"per_sample of {len(samples)} overlays: the input of {self.path or 'the model'} "
                f"has the shape {tuple(x.shape)}, but must have a sample of the batch in each row"
            )
        for part in there:
            dtype = self._follow(part, x, out)
        if dtype is not None and x.is_floating_point() and x.dtype != dtype:
            x = x.to(dtype)
        return self.kind.add_each(layer, x, out, *self._stack(parts, there, dtype))

    def _stack(
        self, parts: list[Part | None], there: list[Part], dtype: torch.dtype | None
    ) -> tuple[Any, Tensor]:
        """The factors of all samples, made once for many calls where nothing learns meanwhile."""
        kept = not (torch.is_grad_enabled() or torch.compiler.is_compiling())
        kept = kept and not any(part.state.fading.by_clock for part in there)
        if kept:
            versions = (
                dtype,
                there[0].a.device,
                [(part.a._version, part.b._version) for part in there],
            )
            found = self.selection.stacks.get(self.path)
            if found is not None and found[0] == versions:
                return found[1], found[2]
        once = {id(part): part.factors(dtype) for part in there}
        none = [torch.zeros_like(factor) for factor in once[id(there[0])]]
        factors = [once[id(part)] if part is not None else (none[0], none[1]) for part in parts]
        a, b = self.kind.stack(_of_one_rank(self.kind, factors))
        if kept:
            self.selection.stacks[self.path] = versions, a, b
        return a, b


_HALVES = (torch.bfloat16, torch.float16)
_FEW_ROWS = 16


def _is_fresh(layer: nn.Module) -> bool:
    """Whether the output of a layer is a tensor that it has just made, and keeps no other of."""
    return type(layer) in (nn.Linear, nn.Embedding) and "forward" not in layer.__dict__


def _of_one_rank(kind: Kind, factors: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """The smaller ones filled up with zeros."""
    rank = max(b.shape[1] for _, b in factors)

    def fill(factor: Tensor, axis: int) -> Tensor:
        missing = rank - factor.shape[axis]
        if not missing:
            return factor
        return F.pad(factor, [0, 0] * (factor.dim() - 1 - axis) + [0, missing])

    return [(fill(a, kind.rank_axis), fill(b, 1)) for a, b in factors]


def _input(args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> Tensor:
    x: Tensor = args[0] if args else next(iter(kwargs.values()))
    return x if x.device == out.device else x.to(out.device)
