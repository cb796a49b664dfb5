"""Cases by name, and their arithmetic counted by hand and by torch."""

from __future__ import annotations

import re

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fastweights.bench.cases import CASES, INPUTS, STEPS, Case, parse_case
from fastweights.bench.peers import EagerAttention
from fastweights.nn import FastWeightsRNN
from fastweights.training.config import ConfigError


def test_a_count_by_hand() -> None:
    # Two steps of two samples, three features; the second step reads two vectors.
    input_product, recurrent_product = 2 * 3 * 37, 2 * 3 * 3
    reads = 4 * 3 * 1 + 4 * 3 * 2
    forward = 2 * (2 * input_product + 2 * recurrent_product + reads)
    backward = 2 * (2 * input_product + 2 * 2 * recurrent_product + 2 * reads)
    assert INPUTS == 37
    assert Case(2, 2, 3).flops("forward") == forward
    assert Case(2, 2, 3).flops("training") == forward + backward


def test_beyond_the_width_a_step_costs_the_same() -> None:
    def growth(length: int, mode: str) -> int:
        return Case(1, length + 1, 4).flops(mode) - Case(1, length, 4).flops(mode)

    forward = 2 * 4 * 37 + 2 * 4 * 4 + 4 * 4 * 4
    assert growth(4, "forward") == growth(9, "forward") == forward
    assert growth(3, "forward") == forward  # the fourth step reads four vectors
    assert growth(2, "forward") == forward - 4 * 4
    backward = 2 * 4 * 37 + 2 * 2 * 4 * 4 + 8 * 4 * 4
    assert growth(9, "training") == forward + backward


def test_a_step_from_a_state_reads_the_whole_matrix() -> None:
    one, fresh = Case(2, 1, 4, state=True), Case(2, 1, 4)
    more = 2 * (4 * 4 * 4 - 4 * 4)  # the matrix form beside one vector
    assert one.flops("forward") - fresh.flops("forward") == more
    assert one.flops("training") - fresh.flops("training") == 3 * more


@pytest.mark.parametrize("case", [Case(3, 1, 5), Case(3, 4, 5), Case(2, 7, 7)])
def test_torch_counts_the_same_in_the_attention_form(case: Case) -> None:
    net = EagerAttention(FastWeightsRNN(INPUTS, case.width))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(case.length, case.batch, INPUTS))
    assert counter.get_total_flops() == case.flops("forward")


def test_names_lead_back_to_their_cases() -> None:
    assert [parse_case(case.name) for case in (*CASES, *STEPS)] == [*CASES, *STEPS]
    assert parse_case("4096x32x64") == Case(4096, 32, 64)


@pytest.mark.parametrize(
    "name", ["128x11", "128x11x0", "128x11xH", "128x11x50x1", "-1x2x3", "", "2x3x4+state", "+state"]
)
def test_what_is_no_case(name: str) -> None:
    with pytest.raises(ConfigError, match=f"BATCHxLENGTHxWIDTH.*'{re.escape(name)}'.*128x11x50"):
        parse_case(name)


def test_the_nearest_case_is_named() -> None:
    with pytest.raises(ConfigError, match=r"did you mean '16x1x64\+state'"):
        parse_case("16x1x64+stat")
    with pytest.raises(ConfigError, match="did you mean '128x200x100'"):
        parse_case("128x200x100x")
