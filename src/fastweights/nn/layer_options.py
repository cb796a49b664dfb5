"""The options of the layer and of the cell: their names, types and defaults, in one place."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypedDict, TypeVar, get_args, get_type_hints

import torch

from fastweights.decay import Decay

__all__ = ["LayerOptions", "complete", "with_layer_options"]

Function = TypeVar("Function", bound=Callable[..., Any])


class LayerOptions(TypedDict, total=False):
    """What :class:`fastweights.FastWeightsRNN` says of them; beside its type each has its default.

    A function that takes ``**options: Unpack[LayerOptions]`` takes these and no others, as type
    checkers see it; with :func:`with_layer_options` so does :func:`help`.
    """

    inner_steps: Annotated[int, 1]
    decay: Annotated[Decay | float, 0.95]
    write_rate: Annotated[float | Literal["auto"], "auto"]
    layer_norm: Annotated[bool, True]
    norm_preliminary: Annotated[bool, False]
    norm_eps: Annotated[float, 1e-5]
    nonlinearity: Annotated[str, "relu"]
    bias: Annotated[bool, True]
    write: Annotated[str, "before_read"]
    query: Annotated[str, "preliminary"]
    memory: Annotated[str, "hebbian"]
    memory_scale: Annotated[float, 1.0]
    detach_writes: Annotated[bool, False]
    learn_write_rate: Annotated[bool, False]
    form: Annotated[str, "auto"]
    backend: Annotated[str, "auto"]
    device: Annotated[torch.device | str | None, None]
    dtype: Annotated[torch.dtype | None, None]


_DEFAULTS: dict[str, Any] = {
    name: get_args(hint)[1]
    for name, hint in get_type_hints(LayerOptions, include_extras=True).items()
}


def complete(options: LayerOptions, owner: str) -> dict[str, Any]:
    """All options, with the defaults of those that are not given.

    Raises:
        TypeError: there is no such option.

    Example:
        >>> complete({"bias": False}, "Layer")["form"]
        'auto'
        >>> complete({"biass": False}, "Layer")
        Traceback (most recent call last):
        ...
        TypeError: Layer.__init__() got an unexpected keyword argument 'biass'
    """
    for name in options:
        if name not in _DEFAULTS:
            raise TypeError(f"{owner}.__init__() got an unexpected keyword argument {name!r}")
    return {**_DEFAULTS, **options}


def with_layer_options(function: Function) -> Function:
    """Show the options of a function's ``**options: Unpack[LayerOptions]`` one by one.

    Example:
        >>> @with_layer_options
        ... def build(size, **options): ...
        >>> inspect.signature(build).parameters["form"].default
        'auto'
    """
    own = inspect.signature(function)
    hints = get_type_hints(LayerOptions)
    shown = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    shown += [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[name]
        )
        for name, default in _DEFAULTS.items()
    ]
    function.__signature__ = own.replace(parameters=shown)  # type: ignore[attr-defined]
    return function
