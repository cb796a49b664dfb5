"""What the layer and the cell share: parameters, their initialisation, and one layer's run."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from fastweights.arguments import check_flag, check_integer, check_number
from fastweights.decay import Decay, as_decay, made_anew
from fastweights.initial import set_identity, set_normal, set_values
from fastweights.nn.conventions import autocasts, check_dtype, without_autocast
from fastweights.nn.state import FastWeightsState, warn_of_growth
from fastweights.nn.write_rate import choose_write_rate, feeds_back, overflow_of
from fastweights.ops.fast_weights import (
    Drive,
    LayerState,
    Options,
    SlowWeights,
    check_backend,
    check_form,
    fast_weights,
)

__all__ = ["MEMORIES", "FastWeightsBase"]

MEMORIES = ("hebbian", "identity", "random", "learned", "none")


class FastWeightsBase(nn.Module):
    """Parameters by suffix ("_l0", "_l0_reverse", or "" for the cell) and the run of one layer."""

    _overflow_was_said = False

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        inner_steps: int,
        decay: Decay | float,
        write_rate: float | Literal["auto"],
        layer_norm: bool,
        norm_preliminary: bool,
        norm_eps: float,
        nonlinearity: str,
        bias: bool,
        write: str,
        query: str,
        memory: str,
        memory_scale: float,
        detach_writes: bool,
        learn_write_rate: bool,
        form: str,
        backend: str,
    ) -> None:
        super().__init__()
        self.input_size = check_integer("input_size", input_size)
        self.hidden_size = check_integer("hidden_size", hidden_size)
        if memory not in MEMORIES:
            known = ", ".join(map(repr, MEMORIES))
            raise ValueError(f"memory must be one of {known}, got {memory!r}")
        kind = memory if memory in ("hebbian", "none") else "static"
        self._options = Options(
            inner_steps=check_integer("inner_steps", inner_steps, 0),
            nonlinearity=cast(Literal["relu", "tanh"], nonlinearity),
            layer_norm=layer_norm,
            norm_preliminary=norm_preliminary,
            norm_eps=check_number("norm_eps", norm_eps, 0, ends="()"),
            write=cast(Literal["before_read", "after_read"], write),
            query=cast(Literal["preliminary", "previous"], query),
            memory=cast(Literal["hebbian", "static", "none"], kind),
            detach_writes=detach_writes,
        )
        self.learn_write_rate = check_flag("learn_write_rate", learn_write_rate)
        if isinstance(write_rate, str) and write_rate == "auto":
            write_rate = choose_write_rate(self._options, as_decay(decay), self.hidden_size)
        self.write_rate = check_number("write_rate", write_rate)
        if learn_write_rate and self.write_rate <= 0:
            raise ValueError(
                f"write_rate must be positive for its logarithm to be learned, got {write_rate}"
            )
        self.memory_scale = check_number("memory_scale", memory_scale)
        self.memory = memory
        self._has_bias = check_flag("bias", bias)
        check_form(form, as_decay(decay))
        check_backend(backend)
        self.form = form
        self.backend = backend
        self.decays = nn.ModuleDict()

    def __prepare_scriptable__(self) -> nn.Module:
        """What ``torch.jit.script`` asks a module for, before it would fail in the middle of it."""
        raise NotImplementedError(
            f"torch.jit.script cannot compile {type(self).__name__}; torch.compile and "
            "torch.export.export can, and torch.jit.trace records it"
        )

    @property
    def norm_eps(self) -> float:
        """ε under the root of the layer norm."""
        return self._options.norm_eps

    @property
    def nonlinearity(self) -> str:
        """f, "relu" or "tanh"."""
        return self._options.nonlinearity

    @property
    def decay(self) -> Decay:
        """The decay of the first layer."""
        return cast(Decay, next(iter(self.decays.values())))

    def _add_layer(
        self, suffix: str, input_size: int, decay: Decay | float, factory: dict[str, Any]
    ) -> None:
        check_dtype(factory["dtype"])
        hidden = self.hidden_size
        self.register_parameter(
            f"weight_ih{suffix}", nn.Parameter(torch.empty(hidden, input_size, **factory))
        )
        self.register_parameter(
            f"weight_hh{suffix}", nn.Parameter(torch.empty(hidden, hidden, **factory))
        )

        def vector(name: str, wanted: bool) -> None:
            parameter = nn.Parameter(torch.empty(hidden, **factory)) if wanted else None
            self.register_parameter(f"{name}{suffix}", parameter)

        vector("bias", self._has_bias)
        vector("norm_weight", self._options.layer_norm)
        vector("norm_bias", self._options.layer_norm)
        if self.memory == "learned":
            learned = nn.Parameter(torch.empty(hidden, hidden, **factory))
            self.register_parameter(f"weight_memory{suffix}", learned)
        elif self.memory == "random":
            self.register_buffer(f"weight_memory{suffix}", torch.empty(hidden, hidden, **factory))
        if self.learn_write_rate:
            start = torch.empty((), **factory)
            self.register_parameter(f"log_write_rate{suffix}", nn.Parameter(start))
        # Each layer learns its own.
        own = made_anew(as_decay(decay), self._get("weight_hh", suffix).device)
        self.decays[suffix.lstrip("_") or "cell"] = own
        self._first = self.__dict__.get("_first", suffix)

    def _reset_layer(self, suffix: str, *, input_scale: float, recurrent_scale: float) -> None:
        _tight_frame(self._get("weight_ih", suffix), input_scale)
        set_identity(self._get("weight_hh", suffix), recurrent_scale)
        if self._has_bias:
            set_values(self._get("bias", suffix), 0.0)
        if self._options.layer_norm:
            set_values(self._get("norm_weight", suffix), 1.0)
            set_values(self._get("norm_bias", suffix), 0.0)
        if self.memory in ("random", "learned"):
            std = self.memory_scale / math.sqrt(self.hidden_size)
            set_normal(self._get("weight_memory", suffix), std)
        if self.learn_write_rate:
            set_values(self._get("log_write_rate", suffix), math.log(self.write_rate))
        self._layer_decay(suffix).reset_parameters()

    @property
    def _like(self) -> Tensor:
        """A parameter, for its dtype and device; the first of them takes longer to find."""
        return self._get("weight_hh", self._first)

    def _get(self, name: str, suffix: str) -> Tensor:
        # Where parameters usually are, without the detour over all that an attribute may be.
        found = self._parameters.get(f"{name}{suffix}")
        return getattr(self, f"{name}{suffix}") if found is None else found

    def _write_rate(self, suffix: str) -> Tensor | float:
        if self.learn_write_rate:
            return self._get("log_write_rate", suffix).exp()
        return self.write_rate

    def _slow_weights(self, suffix: str) -> SlowWeights:
        normed, recurrent = self._options.layer_norm, self._get("weight_hh", suffix)
        memory = None
        if self.memory == "identity":
            # Made at each call: a buffer that is not saved is garbage where modules are made on
            # the meta device and then loaded.
            memory = torch.eye(
                self.hidden_size, dtype=recurrent.dtype, device=recurrent.device
            ).mul_(self.memory_scale)
        elif self._options.memory == "static":
            memory = self._get("weight_memory", suffix)
        return SlowWeights(
            recurrent=recurrent,
            norm_weight=self._get("norm_weight", suffix) if normed else None,
            norm_bias=self._get("norm_bias", suffix) if normed else None,
            memory=memory,
        )

    def _layer_decay(self, suffix: str) -> Decay:
        decays = self._modules["decays"]
        return cast(Decay, decays._modules[suffix.lstrip("_") or "cell"])  # type: ignore[union-attr]

    def _drive(self, x: Tensor, suffix: str) -> Tensor | Drive:
        """C x + b, in the parameters' dtype whatever autocast makes of the product."""
        bias = self._get("bias", suffix) if self._has_bias else None
        drive = Drive(x, self._get("weight_ih", suffix), bias)
        return drive.product().to(drive.dtype) if autocasts(x.device) else drive

    def _run_layer(
        self,
        x: Tensor,
        suffix: str,
        state: LayerState | None,
        lengths: Tensor | None,
        resets: Tensor | None = None,
    ) -> tuple[Tensor, LayerState]:
        drive = self._drive(x, suffix)
        if not autocasts(x.device):
            return self._run_drive(drive, suffix, state, lengths, resets)
        # A sum over many steps of products of products does not survive eight bits of mantissa.
        with without_autocast(x.device):
            return self._run_drive(drive, suffix, state, lengths, resets)

    def _run_drive(
        self,
        drive: Tensor | Drive,
        suffix: str,
        state: LayerState | None,
        lengths: Tensor | None,
        resets: Tensor | None,
    ) -> tuple[Tensor, LayerState]:
        decay, write_rate = self._layer_decay(suffix), self._write_rate(suffix)
        output, after = fast_weights(
            drive,
            self._slow_weights(suffix),
            decay,
            write_rate,
            state,
            self._options,
            lengths=lengths,
            resets=resets,
            form=self.form,
            backend=self.backend,
        )
        if not self._overflow_was_said and feeds_back(self._options):
            overflow = overflow_of(drive, decay, write_rate, after)
            if overflow is not None:
                self._overflow_was_said = True
                warnings.warn(overflow, stacklevel=2)
        return output, after

    def _check_input(self, x: Tensor, expected: str, dims: tuple[int, ...]) -> None:
        weight = self._like
        if not isinstance(x, Tensor):
            raise TypeError(f"input must be a tensor {expected}, got {type(x).__name__}")
        if x.layout is not torch.strided or x.is_nested:
            layout = "a nested one" if x.is_nested else x.layout
            raise TypeError(
                f"input must be a dense tensor {expected}, got {layout}; sequences of different "
                "lengths go into torch.nn.utils.rnn.pack_sequence"
            )
        if x.dim() not in dims:
            raise ValueError(f"input must have shape {expected}, got {tuple(x.shape)}")
        if x.shape[-1] != self.input_size:
            raise ValueError(
                f"input must have input_size={self.input_size} features in its last dimension, "
                f"got shape {tuple(x.shape)}"
            )
        if x.device != weight.device:
            raise ValueError(f"input is on {x.device}, but the parameters are on {weight.device}")
        if x.dtype == weight.dtype:
            return
        # Autocast leaves double precision alone, so it cannot bring a double and a float together.
        cast = autocasts(x.device) and torch.float64 not in (x.dtype, weight.dtype)
        if not x.is_floating_point() or not cast:
            raise TypeError(f"input must be {weight.dtype} like the parameters, got {x.dtype}")

    def _check_state(self, state: Any, *, layers: int, batch: int, like: bool) -> FastWeightsState:
        """The state with a batch dimension, after checking that it fits this input.

        ``like`` says whether the input has a batch dimension.
        """
        if not isinstance(state, FastWeightsState):
            raise TypeError(
                f"state must be a FastWeightsState, got {type(state).__name__}; "
                "FastWeightsState.from_hidden(h_0) makes one of hidden vectors alone"
            )
        hidden, weight = self.hidden_size, self._like
        samples = (batch,) if like else ()
        parts = () if self.decay.components == 1 else (self.decay.components,)
        for name, tensor in state.tensors().items():
            if not isinstance(tensor, Tensor):
                raise TypeError(f"state.{name} must be a tensor, got {type(tensor).__name__}")
        if state.hidden.dim() == (2 if like else 3):
            has, lacks = ("input", "state") if like else ("state", "input")
            raise ValueError(f"the {has} has a batch dimension, but the {lacks} has none")
        expected: dict[str, tuple[int, ...]] = {
            "hidden": (layers, *samples, hidden),
            "steps": samples,
            "matrix": (layers, *samples, *parts, hidden, hidden),
            "constant_before": (layers, *samples),
        }
        if state.history is not None:  # any number of memories
            expected["history"] = (layers, *state.history.shape[1:2], *samples, hidden)
        for name, tensor in state.tensors().items():
            if tuple(tensor.shape) != expected[name]:
                raise ValueError(
                    f"state.{name} must have shape {expected[name]}, got {tuple(tensor.shape)}"
                )
            if tensor.device != weight.device:
                raise ValueError(
                    f"state.{name} is on {tensor.device}, but the parameters are on {weight.device}"
                )
            counts = name in ("steps", "constant_before")
            wanted = torch.int64 if counts else weight.dtype
            if tensor.dtype != wanted:
                raise TypeError(f"state.{name} must be {wanted}, got {tensor.dtype}")
        if state.history is not None and state.matrix is not None:
            raise ValueError("state must hold a history or a matrix, not both")
        if state.history is not None and self.memory == "hebbian":
            warn_of_growth(self.decay, self.form, state.history.shape[1], hidden)
        return state if like else state.unsqueeze()

    def _options_repr(self) -> str:
        options, default = self._options, Options()
        shown = [f"inner_steps={options.inner_steps}", f"write_rate={self.write_rate:g}"]
        for name in (
            "layer_norm",
            "norm_preliminary",
            "nonlinearity",
            "write",
            "query",
            "detach_writes",
        ):
            if getattr(options, name) != getattr(default, name):
                shown.append(f"{name}={getattr(options, name)!r}")
        if self.memory != "hebbian":
            shown.append(f"memory={self.memory!r}, memory_scale={self.memory_scale:g}")
        for name, usual in (("learn_write_rate", False), ("form", "auto"), ("backend", "auto")):
            if getattr(self, name) != usual:
                shown.append(f"{name}={getattr(self, name)!r}")
        return ", ".join(shown)


def _tight_frame(weight: Tensor, scale: float) -> None:
    """Fill with a random semi-orthogonal matrix whose entries have this root mean square.

    Its columns, the vectors of one-hot inputs, are as far apart as they can be.
    """
    # QR needs single precision at least.
    wide = torch.promote_types(weight.dtype, torch.float32)
    drawn = torch.empty(weight.shape, dtype=wide, device=weight.device)
    nn.init.orthogonal_(drawn)
    set_values(weight, drawn.mul_(scale * math.sqrt(max(weight.shape))))
