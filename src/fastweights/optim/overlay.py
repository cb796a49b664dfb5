"""Low-rank fast weights over any model: they fade, and never touch what is beneath."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastweights.arguments import check_integer, check_number
from fastweights.optim._buffers import reshard
from fastweights.optim.overlay_consolidate import new_weights
from fastweights.optim.overlay_fading import Fading, clock, parse_half_life
from fastweights.optim.overlay_files import Factors, read_overlay, write_overlay
from fastweights.optim.overlay_layers import kind_called
from fastweights.optim.overlay_match import find_layers, near
from fastweights.optim.overlay_model import (
    attach,
    check_name,
    detach,
    selection_of,
    unwrapped,
    without,
)
from fastweights.optim.overlay_parts import Selection, State, first_factors
from fastweights.optim.overlay_peft import read_adapter, write_adapter

__all__ = ["Overlay"]

logger = logging.getLogger("fastweights")
_PathLike = str | os.PathLike[str]


class Overlay:
    """Fast weights of low rank over the layers of a model, whose own weights are never written.

    Each of the layers has two small factors beside its weight W, and computes with W + ΔW, where ΔW
    is their product. Only the factors learn: give `parameters` to any optimizer of torch. After
    each of its steps every ΔW is multiplied by 1 − h, so that half of it is gone after a half-life
    and new knowledge enters at its full strength: f ← (1 − h)(f + Δf), as in Hinton and Plaut's
    "Using fast weights to deblur old memories" (1987).

    It works by forward hooks. The model's modules, parameters and ``state_dict()`` stay what they
    are; buffers that change in a rehearsal (BatchNorm's running statistics) belong to the overlay,
    and the state that the model saves is the state beneath it.

    Args:
        model: any module. Its parameters need no gradients: ``model.requires_grad_(False)`` saves
            the time and memory for those.
        rank: of every ΔW; the smaller, the more the associations that are learned share.
        modules: the layers, by their names in the model or the ends of those (``"q_proj"``), by
            patterns (``"layers.*.mlp.*"``, or ``re.compile(…)`` for the whole name) or by types
            (``nn.Linear``): linear layers, also quantised ones, ``nn.Embedding``, ``nn.Conv1d``,
            ``nn.Conv2d`` and the ``Conv1D`` of transformers.
        half_life: in updates of the optimizer, a number above 0 (``math.inf`` for no fading), or in
            clock time: ``"90s"``, ``"30min"``, ``"6h"``, ``"2d"``.
        name: tells several overlays of one model apart; those that are on are added up.
        seed: of the factors that start random. The others start at zero.
        process_group: where ``torch.distributed`` trains in several processes, gradients are
            averaged over this group, None for all processes, False for none. DDP and FSDP2 do that
            for the model's parameters, and do not know of these.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is out of its range, no layer matches, a rank is above what a layer
            can use, or the model has an overlay of that name; nothing is changed.

    Example:
        >>> import torch, fastweights
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
        >>> overlay = fastweights.Overlay(model, rank=1, modules=[nn.Linear], half_life=200)
        >>> optimizer = torch.optim.AdamW(overlay.parameters(), lr=0.1)
        >>> x = torch.rand(8, 3)
        >>> beneath = model(x)
        >>> for _ in range(20):
        ...     model(x).square().mean().backward(); optimizer.step(); optimizer.zero_grad()
        >>> bool(model(x).square().mean() < beneath.square().mean())
        True
        >>> with overlay.off():
        ...     torch.equal(model(x), beneath)
        True
        >>> before = overlay.norm(); overlay.relax(updates=400); round(overlay.norm() / before, 6)
        0.25
        >>> overlay.remove(); torch.equal(model(x), beneath)
        True
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        rank: int,
        modules: Any,
        half_life: float | str,
        name: str = "default",
        seed: int = 0,
        process_group: Any = None,
    ) -> None:
        model = unwrapped(model)
        rank = check_integer("rank", rank)
        seed = check_integer("seed", seed, low=0)
        fading = parse_half_life(half_life)
        check_name(model, name)
        layers = find_layers(model, modules)
        for path, (layer, kind) in layers.items():
            if rank > kind.largest_rank(layer):
                raise ValueError(
                    f"rank must be at most {kind.largest_rank(layer)} for layer {path!r} "
                    f"({type(layer).__name__}), got {rank}"
                )
        factors = {
            path: (layer, kind, *first_factors(kind, layer, rank, seed, path))
            for path, (layer, kind) in layers.items()
        }
        self._attach(model, State(name, rank, fading, seed, process_group), factors)

    def _attach(self, model: nn.Module, state: State, factors: Factors) -> None:
        attach(model, state, factors)
        self._become(model, state)

    def _become(self, model: nn.Module, state: State) -> None:
        self._model = model
        self._state = state

    # -- what it is ------------------------------------------------------------------------------

    @property
    def model(self) -> nn.Module:
        """The model that the overlay is laid over."""
        return self._model

    @property
    def name(self) -> str:
        """Its name among the overlays of the model."""
        return self._state.name

    @property
    def rank(self) -> int:
        """The rank of its factors; of an adapter of several ranks, the largest."""
        return self._state.rank

    @property
    def half_life(self) -> float | str:
        """In updates, or in clock time as it was given."""
        return self._state.fading.half_life

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers that it is laid over."""
        return tuple(self._state.parts)

    def parameters(self) -> list[nn.Parameter]:
        """What learns: two factors for each layer."""
        return [parameter for _, parameter in self.named_parameters()]

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """The factors by the names of their layers, with ``.A`` and ``.B``."""
        self._check_there()
        return [
            (f"{path}.{letter}", factor)
            for path, part in self._state.parts.items()
            for letter, factor in (("A", part.a), ("B", part.b))
        ]

    @torch.no_grad()
    def fast_weights(self, layer: str) -> Tensor:
        """ΔW of one layer as it is now, in the shape of its weight."""
        self._check_there()
        if layer not in self._state.parts:
            raise ValueError(
                f"overlay {self.name!r} has no layer {layer!r}{near(layer, self.layers)}"
            )
        part = self._state.parts[layer]
        kind = kind_called(part.kind)
        assert kind is not None
        return kind.dense(self._model.get_submodule(layer), *part.factors(None))

    @torch.no_grad()
    def norm(self) -> float:
        """The Euclidean norm of all fast weights together."""
        self._check_there()
        squares = []
        for part in self._state.parts.values():
            a, b = (factor.double() for factor in part.factors(None))
            axis = 1 if part.kind == "embedding" else 0
            a = a.movedim(axis, 0).flatten(1)
            squares.append(float(((a @ a.mT) * (b.mT @ b)).sum()))  # ‖BA‖² without the product
        return math.sqrt(max(0.0, math.fsum(squares)))

    def __repr__(self) -> str:
        if self._state.removed:
            return f"Overlay({self.name!r}, removed)"
        layers = f"{len(self.layers)} layer{'s' * (len(self.layers) > 1)}"
        return f"Overlay({self.name!r}, rank {self.rank}, {layers}, half-life {self._state.fading})"

    # -- on and off ------------------------------------------------------------------------------

    @property
    def enabled(self) -> bool:
        """Whether the model computes with it; may be set."""
        self._check_there()
        return self.name in self._selection.on

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self._check_there()
        on = set(self._selection.on)
        self._show(on | {self.name} if value else on - {self.name})

    @contextmanager
    def off(self) -> Iterator[None]:
        """Inside, the model computes without this overlay: bit for bit what it did before.

        That also holds after an exception. The model's buffers are those of the model beneath;
        what changes them inside changes the model beneath.

        Example: see the class.
        """
        self._check_there()
        with without(self._model, self._selection, {self.name}):
            yield

    # -- fading, forgetting, keeping -------------------------------------------------------------

    def relax(self, *, updates: float | None = None, hours: float | None = None) -> None:
        """Fade, with nothing learned, as in so many updates, or so much clock time.

        What optimizers remember of the direction they were going in (``momentum_buffer``,
        ``exp_avg``) fades as much, or their next steps would bring some of it back.

        Args:
            updates: how many, where the half-life is in updates; also a part of one.
            hours: how many, where the half-life is a clock time.

        Raises:
            TypeError: not exactly one of the two is given, or it is no number.
            ValueError: it is negative, or not what the half-life is in.
        """
        self._check_there()
        if (updates is None) == (hours is None):
            raise TypeError("relax takes either updates= or hours=")
        fading = self._state.fading
        asked, amount = ("updates", updates) if hours is None else ("hours", hours)
        amount = check_number(asked, amount, low=0.0)
        if fading.by_clock != (asked == "hours"):
            other = "hours" if fading.by_clock else "updates"
            raise ValueError(f"the half-life of this overlay is {fading}: relax({other}=…)")
        keep = fading.keep(amount * 3600 if fading.by_clock else amount)
        self._state.catch_up()
        self._state.fade(keep)
        self._state.fade_momentum(keep, [part.fading for part in self._state.parts.values()])

    @torch.no_grad()
    def clear(self) -> None:
        """Forget everything: the overlay is what it was when it was attached.

        So are the model's buffers. Gradients that are waiting for a step are gone, and what
        optimizers remember of the direction they were going in.
        """
        self._check_there()
        state = self._state
        for path, part in state.parts.items():
            layer = self._model.get_submodule(path)
            kind = kind_called(part.kind)
            assert kind is not None
            rank = part.b.shape[1]
            for factor, first in zip(
                (part.a, part.b), first_factors(kind, layer, rank, state.seed, path), strict=True
            ):
                factor.copy_(first)
                factor.grad = None
        state.since = clock()
        state.fade_momentum(0.0, self.parameters())
        self._selection.buffers.forget(self._model, self.name, self._selection.key)

    def remove(self) -> None:
        """Take the overlay off the model, which is then bit for bit what it was without it.

        Any further use of it is an error.
        """
        self._check_there()
        detach(self._model, self._state)

    @torch.no_grad()
    def consolidate(self) -> list[str]:
        """Add the overlay to the slow weights for good; **nothing else here changes them**.

        The overlay stays, empty. Buffers that it changed become the model's own. A log message of
        level WARNING says what was changed.

        Returns:
            The names of the weights that were changed.

        Raises:
            ValueError: a weight is quantised, computed from others, or shared with another layer,
                where it would change that one too; nothing is changed.
        """
        self._check_there()
        reshard(self._model)  # or FSDP2 would show whole copies, and forget what they get
        weights = new_weights(self._model, self._state)
        for weight, value in weights.values():
            weight.copy_(value)
        reshard(self._model)
        selection = self._selection
        selection.buffers.consolidate(self._model, self.name, selection.key)
        self.clear()
        logger.warning(
            "Overlay %r: changed %d weights of the model for good, %s…",
            self.name,
            len(weights),
            next(iter(weights)),
        )
        return list(weights)

    # -- files -----------------------------------------------------------------------------------

    def save(self, path: _PathLike) -> None:
        """Write the overlay to a file of safetensors, whole or not at all.

        Fading by the clock stands still in a file, and goes on where it is loaded.

        Raises:
            ImportError: safetensors is not installed.
            OSError: it cannot be written.
            ValueError: it is longer than can be read again.
        """
        self._check_there()
        self._state.catch_up()
        selection = self._selection
        buffers = selection.buffers.of(self._model, self.name, selection.key)
        write_overlay(Path(path), self._model, self._state, buffers)

    @classmethod
    def load(
        cls,
        path: _PathLike,
        model: nn.Module,
        *,
        name: str | None = None,
        process_group: Any = None,
    ) -> Overlay:
        """Lay the overlay in a file over a model.

        The file is believed only if all of it fits: its checksum, the names, kinds and shapes of
        the layers, and a sample of the weights they had. Those may have been trained since, but not
        be another model's.

        Args:
            path: what `save` wrote.
            model: the model that the overlay was made for.
            name: for another name than the one in the file.
            process_group: see the class.

        Raises:
            ImportError: safetensors is not installed.
            OSError: the file cannot be read.
            ValueError: it is damaged, something else, or of another model, or the model has an
                overlay of that name; nothing is changed.
        """
        model = unwrapped(model)
        read = read_overlay(Path(path), model)
        name = read.name if name is None else name
        check_name(model, name)
        overlay = cls._of_factors(model, name, read.fading, read.seed, process_group, read.factors)
        selection = overlay._selection
        selection.buffers.give(model, name, selection.key, read.buffers)
        return overlay

    def to_peft(self, folder: _PathLike) -> None:
        """Write what the overlay is now as a LoRA adapter of peft, which does not fade.

        Raises:
            ImportError: safetensors is not installed.
            OSError: it cannot be written.
            ValueError: adapters have nothing like it: a convolution in groups.
        """
        self._check_there()
        self._state.catch_up()
        write_adapter(Path(folder), self._model, self._state)

    @classmethod
    def from_peft(
        cls,
        folder: _PathLike,
        model: nn.Module,
        *,
        half_life: float | str,
        name: str = "default",
        process_group: Any = None,
    ) -> Overlay:
        """Lay a LoRA adapter that peft saved over its base model, to fade from now on.

        Args:
            folder: with ``adapter_config.json`` and ``adapter_model.safetensors``.
            model: the base model, without the adapter.
            half_life: see the class.
            name: see the class.
            process_group: see the class.

        Raises:
            ImportError: safetensors is not installed.
            OSError: a file cannot be read.
            ValueError: the adapter is of another kind or model, or the model has an overlay of that
                name; nothing is changed.
        """
        model = unwrapped(model)
        fading = parse_half_life(half_life)
        check_name(model, name)
        factors = read_adapter(Path(folder), model)
        return cls._of_factors(model, name, fading, 0, process_group, factors)

    @classmethod
    def _of_factors(
        cls, model: nn.Module, name: str, fading: Fading, seed: int, group: Any, factors: Factors
    ) -> Overlay:
        overlay = cls.__new__(cls)
        rank = max(b.shape[1] for *_, b in factors.values())
        overlay._attach(model, State(name, rank, fading, seed, group), factors)
        return overlay

    # --------------------------------------------------------------------------------------------

    @property
    def _selection(self) -> Selection:
        selection = selection_of(self._model)
        assert selection is not None
        return selection

    def _show(self, on: set[str]) -> None:
        self._selection.show(self._model, on, self._selection.samples)

    def _check_there(self) -> None:
        if self._state.removed:
            raise RuntimeError(f"overlay {self.name!r} was removed from its model")
