"""What the layer and the cell share: parameters, their initialisation, and one layer's run."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from fastweights.arguments import check_flag, check_integer, check_number
from fastweights.decay import Decay, as_decay, made_anew
from fastweights.initial import set_identity, set_normal, set_values
from fastweights.nn.conventions import autocasts, check_dtype, check_input, without_autocast
from fastweights.nn.layer_options import LayerOptions, complete
from fastweights.nn.state import FastWeightsState, warn_of_growth
from fastweights.nn.write_rate import choose_write_rate, feeds_back, overflow_of
from fastweights.ops.dispatch import are_plain, dispatch_is_traced
from fastweights.ops.fast_weights import (
    InputProjection,
    LayerState,
    Options,
    SlowWeights,
    check_backend,
    check_form,
)
from fastweights.ops.fast_weights.call import Call
from fastweights.ops.fast_weights.recurrence import run

__all__ = ["MEMORIES", "FastWeightsBase", "LayerNames"]

# Of the layer's options those that are the recurrence's, which checks them.
_AS_THEY_ARE = (
    "layer_norm",
    "norm_preliminary",
    "nonlinearity",
    "write",
    "query",
    "detach_writes",
)
MEMORIES = ("hebbian", "identity", "random", "learned", "none")


class LayerNames(NamedTuple):
    """What the parameters of one layer and direction are called, and its decay in ``decays``."""

    weight_ih: str
    weight_hh: str
    bias: str
    norm_weight: str
    norm_bias: str
    weight_memory: str
    log_write_rate: str
    decay: str
    backward: bool = False  #: whether it reads the sequence from its end

    @classmethod
    def of_layer(cls, layer: int, *, backward: bool = False) -> LayerNames:
        """As ``nn.RNN`` has them: ``weight_ih_l0``, ``weight_ih_l0_reverse``, …"""
        place = f"l{layer}_reverse" if backward else f"l{layer}"
        return cls._make([*(f"{name}_{place}" for name in cls._fields[:-2]), place, backward])

    @classmethod
    def of_cell(cls) -> LayerNames:
        """As ``nn.RNNCell`` has them: ``weight_ih``, …"""
        return cls._make([*cls._fields[:-2], "cell", False])


class FastWeightsBase(nn.Module):
    """The parameters of some layers, and the run of one of them."""

    _overflow_was_said = False

    def __init__(self, input_size: int, hidden_size: int, options: LayerOptions) -> None:
        super().__init__()
        self.input_size = check_integer("input_size", input_size)
        self.hidden_size = check_integer("hidden_size", hidden_size)
        given = complete(options, type(self).__name__)
        memory, decay, write_rate = given["memory"], given["decay"], given["write_rate"]
        if memory not in MEMORIES:
            known = ", ".join(map(repr, MEMORIES))
            raise ValueError(f"memory must be one of {known}, got {memory!r}")
        kind = memory if memory in ("hebbian", "none") else "static"
        self._options = Options(
            inner_steps=check_integer("inner_steps", given["inner_steps"], 0),
            norm_eps=check_number("norm_eps", given["norm_eps"], 0, ends="()"),
            memory=cast(Literal["hebbian", "static", "none"], kind),
            **{name: given[name] for name in _AS_THEY_ARE},
        )
        self.learn_write_rate = check_flag("learn_write_rate", given["learn_write_rate"])
        if isinstance(write_rate, str) and write_rate == "auto":
            write_rate = choose_write_rate(self._options, as_decay(decay), self.hidden_size)
        self.write_rate = check_number("write_rate", write_rate)
        if self.learn_write_rate and self.write_rate <= 0:
            raise ValueError(
                f"write_rate must be positive for its logarithm to be learned, got {write_rate}"
            )
        self.memory_scale = check_number("memory_scale", given["memory_scale"])
        self.memory = memory
        self._has_bias = check_flag("bias", given["bias"])
        self.form, self.backend = given["form"], given["backend"]
        check_form(self.form, as_decay(decay))
        check_backend(self.backend)
        self.decays = nn.ModuleDict()
        self._names: list[LayerNames] = []  # of the layers, in the order of a state
        self._feeds_back = feeds_back(self._options)

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

    def _add_layer(self, names: LayerNames, input_size: int, options: LayerOptions) -> None:
        given = complete(options, type(self).__name__)
        factory = {"device": given["device"], "dtype": given["dtype"]}
        check_dtype(factory["dtype"])
        hidden = self.hidden_size

        def parameter(name: str, *shape: int, wanted: bool = True) -> None:
            made = nn.Parameter(torch.empty(shape, **factory)) if wanted else None
            self.register_parameter(name, made)

        parameter(names.weight_ih, hidden, input_size)
        parameter(names.weight_hh, hidden, hidden)
        parameter(names.bias, hidden, wanted=self._has_bias)
        parameter(names.norm_weight, hidden, wanted=self._options.layer_norm)
        parameter(names.norm_bias, hidden, wanted=self._options.layer_norm)
        if self.memory == "learned":
            parameter(names.weight_memory, hidden, hidden)
        elif self.memory == "random":
            self.register_buffer(names.weight_memory, torch.empty(hidden, hidden, **factory))
        if self.learn_write_rate:
            parameter(names.log_write_rate)
        # Each layer learns its own.
        own = made_anew(as_decay(given["decay"]), self._get(names.weight_hh).device)
        self.decays[names.decay] = own
        self._names.append(names)

    def _reset_layer(
        self, names: LayerNames, *, input_scale: float, recurrent_scale: float
    ) -> None:
        _tight_frame(self._get(names.weight_ih), input_scale)
        set_identity(self._get(names.weight_hh), recurrent_scale)
        if self._has_bias:
            set_values(self._get(names.bias), 0.0)
        if self._options.layer_norm:
            set_values(self._get(names.norm_weight), 1.0)
            set_values(self._get(names.norm_bias), 0.0)
        if self.memory in ("random", "learned"):
            std = self.memory_scale / math.sqrt(self.hidden_size)
            set_normal(self._get(names.weight_memory), std)
        if self.learn_write_rate:
            set_values(self._get(names.log_write_rate), math.log(self.write_rate))
        self._layer_decay(names).reset_parameters()

    @property
    def _like(self) -> Tensor:
        """A parameter, for its dtype and device."""
        return self._get(self._names[0].weight_hh)

    def _get(self, name: str) -> Tensor:
        # Where parameters usually are, without the detour over all that an attribute may be.
        found = self._parameters.get(name)
        return getattr(self, name) if found is None else found

    def _write_rate(self, names: LayerNames) -> Tensor | float:
        return self._get(names.log_write_rate).exp() if self.learn_write_rate else self.write_rate

    def _slow_weights(self, names: LayerNames) -> SlowWeights:
        recurrent = self._get(names.weight_hh)
        gain = norm_bias = memory = None
        if self._options.layer_norm:
            gain, norm_bias = self._get(names.norm_weight), self._get(names.norm_bias)
        if self.memory == "identity":
            # Made at each call: a buffer that is not saved is garbage where modules are made on
            # the meta device and then loaded.
            memory = torch.eye(
                self.hidden_size, dtype=recurrent.dtype, device=recurrent.device
            ).mul_(self.memory_scale)
        elif self._options.memory == "static":
            memory = self._get(names.weight_memory)
        return SlowWeights(recurrent, gain, norm_bias, memory)

    def _layer_decay(self, names: LayerNames) -> Decay:
        return cast(Decay, self._modules["decays"]._modules[names.decay])  # type: ignore[union-attr]

    def _project(self, x: Tensor, names: LayerNames) -> Tensor | InputProjection:
        """C x + b, in the parameters' dtype whatever autocast makes of the product."""
        bias = self._get(names.bias) if self._has_bias else None
        drive = InputProjection(x, self._get(names.weight_ih), bias)
        if torch._C._is_any_autocast_enabled() and autocasts(x.device):
            return drive.product().to(drive.dtype)
        return drive

    def _run_layer(
        self,
        x: Tensor,
        names: LayerNames,
        state: LayerState | None,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
        *,
        layered: bool = False,
    ) -> tuple[Tensor, LayerState]:
        """One layer over (T, B, features); ``layered`` as in :class:`Call`."""
        drive = self._project(x, names)
        decay, write_rate = self._layer_decay(names), self._write_rate(names)
        weights, options = self._slow_weights(names), self._options
        call = Call(drive, weights, decay, write_rate, state, options, lengths, resets, layered)
        if type(drive) is InputProjection:
            output, after = run(call, self.form, self.backend)
        else:
            # Under autocast. A sum over many steps of products of products does not survive eight
            # bits of mantissa.
            with without_autocast(x.device):
                output, after = run(call, self.form, self.backend)
        if self._feeds_back and not self._overflow_was_said:
            overflow = overflow_of(drive, decay, write_rate, after)
            if overflow is not None:
                self._overflow_was_said = True
                warnings.warn(overflow, stacklevel=2)
        return output, after

    def _check_input(self, x: Tensor, expected: str, dims: tuple[int, ...]) -> None:
        weight = self._like
        if (
            type(x) is Tensor
            and x.layout is torch.strided
            and not x.is_nested
            and x.dim() in dims
            and x.shape[-1] == self.input_size
            and x.device == weight.device
            and x.dtype is weight.dtype
        ):
            return  # what nearly every input is
        check_input(x, self.input_size, weight, expected, dims)

    def _check_state(
        self, state: Any, *, layers: int, batch: int, batched: bool
    ) -> FastWeightsState:
        """The state with a batch dimension, after checking that it fits this input.

        ``batched`` says whether the input has a batch dimension.
        """
        hidden, weight = self.hidden_size, self._like
        samples = (batch,) if batched else ()
        usual = type(state) is FastWeightsState and state.history is None and batched
        if usual and not dispatch_is_traced():
            parts = () if self.decay.components == 1 else (self.decay.components,)
            own = (layers, batch, hidden), (layers, batch, *parts, hidden, hidden)
            if are_plain(
                (state.hidden, state.matrix), own, weight.dtype, weight.device
            ) and are_plain((state.steps,), (samples,), torch.int64, weight.device):
                return state  # what nearly every state is
        if not isinstance(state, FastWeightsState):
            raise TypeError(
                f"state must be a FastWeightsState, got {type(state).__name__}; "
                "FastWeightsState.from_hidden(h_0) makes one of hidden vectors alone"
            )
        parts = () if self.decay.components == 1 else (self.decay.components,)
        for name, tensor in state.tensors().items():
            if not isinstance(tensor, Tensor):
                raise TypeError(f"state.{name} must be a tensor, got {type(tensor).__name__}")
        if state.hidden.dim() == (2 if batched else 3):
            has, lacks = ("input", "state") if batched else ("state", "input")
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
        return state if batched else state.unsqueeze()

    def _options_repr(self) -> str:
        options, default = self._options, Options()
        shown = [f"inner_steps={options.inner_steps}", f"write_rate={self.write_rate:g}"]
        for name in _AS_THEY_ARE:
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
