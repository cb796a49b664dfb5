"""The options that layer and cell share, as users and their tools see them."""

from __future__ import annotations

import inspect

import pytest

from fastweights import FastWeightsRNN, FastWeightsRNNCell
from fastweights.nn.layer_options import LayerOptions

BOTH = [FastWeightsRNN, FastWeightsRNNCell]
OWN = {"num_layers", "batch_first", "dropout", "bidirectional", "proj_size"}


@pytest.mark.parametrize("kind", BOTH)
def test_the_signature_names_every_option_with_its_default(kind) -> None:
    shown = inspect.signature(kind).parameters
    assert LayerOptions.__annotations__.keys() <= shown.keys()
    assert shown["norm_eps"].default == 1e-5
    assert shown["decay"].default == 0.95
    assert not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in shown.values())
    for name in LayerOptions.__annotations__:
        assert shown[name].kind is inspect.Parameter.KEYWORD_ONLY


def test_layer_and_cell_have_the_same_options() -> None:
    layer, cell = (inspect.signature(kind).parameters for kind in BOTH)
    assert layer.keys() - cell.keys() == OWN
    for name, parameter in cell.items():
        assert layer[name].default == parameter.default
        assert layer[name].annotation == parameter.annotation


def test_every_option_is_described() -> None:
    for name in inspect.signature(FastWeightsRNN).parameters:
        assert f"\n        {name}: " in str(FastWeightsRNN.__doc__), name


@pytest.mark.parametrize("kind", BOTH)
def test_an_option_that_there_is_not(kind) -> None:
    with pytest.raises(TypeError, match=rf"{kind.__name__}.* unexpected keyword .* 'form_'"):
        kind(3, 4, form_="auto")
