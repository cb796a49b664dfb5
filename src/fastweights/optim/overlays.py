"""Several overlays on one model: switched, added up, or one for each sample of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import nn

from fastweights.optim.overlay import Overlay
from fastweights.optim.overlay_match import near
from fastweights.optim.overlay_model import selection_of, unwrapped, without

__all__ = ["Overlays"]


class Overlays(Mapping[str, Overlay]):
    """The overlays of a model by their names; those that are on are added up.

    A view: it holds nothing of its own, and is made anew for a copy of the model.

    Args:
        model: with overlays or without.

    Example:
        >>> import torch, fastweights
        >>> model = torch.nn.Linear(4, 3)
        >>> for user in ("ann", "bo"):
        ...     _ = fastweights.Overlay(
        ...         model, rank=2, modules=torch.nn.Linear, half_life="6h", name=user
        ...     )
        >>> overlays = fastweights.Overlays(model)
        >>> overlays.use("bo"); overlays.on
        ('bo',)
        >>> x = torch.rand(3, 4)
        >>> with overlays.per_sample(["ann", None, "bo"]):
        ...     y = model(x)
        >>> overlays.use("ann")
        >>> torch.allclose(y[0], model(x[:1])[0])
        True
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = unwrapped(model)

    def __getitem__(self, name: str) -> Overlay:
        selection = selection_of(self._model)
        if selection is None or name not in selection.states:
            raise KeyError(name)
        overlay = Overlay.__new__(Overlay)
        overlay._become(self._model, selection.states[name])
        return overlay

    def __iter__(self) -> Iterator[str]:
        selection = selection_of(self._model)
        return iter(()) if selection is None else iter(list(selection.states))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @property
    def on(self) -> tuple[str, ...]:
        """The names of those that the model computes with."""
        selection = selection_of(self._model)
        return () if selection is None else selection.on

    def use(self, *names: str) -> None:
        """Switch these on and all others off.

        Raises:
            ValueError: the model has no overlay of that name.
        """
        self._check(names)
        selection = selection_of(self._model)
        if selection is not None:
            selection.show(self._model, set(names), selection.samples)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Inside, the model computes without any overlay; see `Overlay.off`."""
        selection = selection_of(self._model)
        if selection is None:
            yield
            return
        with without(self._model, selection, set(selection.states)):
            yield

    @contextmanager
    def per_sample(self, names: Sequence[str | None]) -> Iterator[None]:
        """Inside, every sample of a batch is computed with an overlay of its own.

        Layers get as many rows as there are names, the batch first, and multiply all samples with
        their factors at once.

        Args:
            names: for every sample of the batch the name of an overlay, or None for none.

        Raises:
            TypeError: ``names`` is text.
            ValueError: the model has no overlay of that name; inside, a layer's input has another
                number of rows.
            RuntimeError: an overlay changed the model's buffers, which all samples share.
        """
        if isinstance(names, str):
            raise TypeError(f"names must be a list with a name for each sample, got {names!r}")
        names = tuple(names)
        self._check([name for name in names if name is not None])
        selection = selection_of(self._model)
        if selection is None:
            yield
            return
        for name in dict.fromkeys(names):
            if name is not None and selection.buffers.of(self._model, name, selection.key):
                raise RuntimeError(
                    f"overlay {name!r} changed buffers of the model, such as running statistics, "
                    "which all samples of a batch share: it cannot be one of several in a batch"
                )
        before = selection.samples
        selection.show(self._model, set(selection.on), names)
        try:
            yield
        finally:
            selection.show(self._model, set(selection.on), before)

    def _check(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self:
                raise ValueError(f"the model has no overlay {name!r}{near(str(name), list(self))}")
