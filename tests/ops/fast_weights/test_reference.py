"""The recurrence against loops written from the equations, and what holds for all of its forms."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fastweights.ops.fast_weights import LayerState, SlowWeights
from fastweights.ops.fast_weights.reference import right_aligned, trimmed
from tests.oracle import fast_weight_matrix, fast_weights_rnn
from tests.pairwise import all_pairs
from tests.problems import (
    RECURRENT,
    STATIONARY,
    decay_named,
    matrix_of,
    oracle_decay,
    problem,
    run,
    solve,
)
from tests.tolerances import assert_close

MATRIX = {"form": "matrix"}
CHUNKED = {"form": "chunked", "chunk_size": 3}
ATTENTION = {"form": "attention"}
NATIVE = {"form": "attention", "backend": "native"}
FORMS = [ATTENTION, MATRIX, CHUNKED, NATIVE]


def _numpy(tensor):
    return None if tensor is None else tensor.detach().double().numpy()


def _can(how, decay="exponential", nonlinearity="relu"):
    if how is NATIVE:
        return decay in STATIONARY and nonlinearity == "relu"
    return how is ATTENTION or decay in RECURRENT


POSSIBLE = [
    (how, decay)
    for how in FORMS
    for decay in ("exponential", "power-law", "step-indexed", "free")
    if _can(how, decay)
]


def _oracle(given):
    """What the equations give, sample by sample where they end at different steps."""
    options = dataclasses.asdict(given.options)
    del options["detach_writes"]
    options["eps"] = options.pop("norm_eps")
    output = fast_weights_rnn(
        _numpy(given.drive),
        _numpy(given.weights.recurrent),
        oracle_decay(given.decay),
        given.write_rate.item(),
        gain=_numpy(given.weights.norm_weight),
        bias=_numpy(given.weights.norm_bias),
        static=_numpy(given.weights.memory),
        hidden=_numpy(given.state.hidden),
        history=_numpy(given.state.history),
        steps=int(given.state.steps[0]),
        **options,
    )
    return torch.from_numpy(output)


ORACLE = {
    "decay": sorted({*RECURRENT, *STATIONARY}),
    "inner_steps": [0, 1, 2, 3],
    "norm": [{}, {"norm_preliminary": True, "norm_eps": 0.1}, {"layer_norm": False}],
    "write": ["before_read", "after_read"],
    "query": ["preliminary", "previous"],
    "nonlinearity": ["relu", "tanh"],
    "memory": ["hebbian", "hebbian", "static", "none"],
    "carried": [0, 3],
    "length": [1, 7],
}


def _id(case):
    return "-".join(str(v).replace(" ", "") for v in case.values())


@pytest.mark.parametrize("case", all_pairs(ORACLE), ids=_id)
def test_every_form_is_the_equations(case):
    case = dict(case)
    given = problem(case.pop("length"), 3, 5, **case.pop("norm"), **case)
    decay = case["decay"]
    expected = _oracle(given)
    for how in FORMS:
        if _can(how, decay, case["nonlinearity"]):
            output, after, _ = run(given, **how)
            assert_close(output, expected, str(how))
            assert_close(after.hidden, expected[-1])
            assert_close(run(given.to(torch.float32), **how)[0], expected, f"{how} in float32")


@pytest.mark.parametrize(("how", "decay"), POSSIBLE, ids=str)
def test_the_final_memory_is_the_sum_over_everything_written(how, decay):
    given = problem(6, 2, 4, decay=decay, carried=2)
    _, after, memory = run(given, **how)
    vectors = torch.cat([given.state.history, given.state.hidden[None], _oracle(given)])
    for sample in range(2):
        written = list(enumerate(vectors[:-1, sample].numpy()))
        expected = fast_weight_matrix(
            written, len(written) - 1, oracle_decay(given.decay), given.write_rate.item()
        )
        assert_close(memory[sample], torch.from_numpy(expected))
    assert after.steps.tolist() == [8, 8]


def test_the_oracle_by_hand():
    """Two steps of one unit, worked out with pencil and paper."""
    output = fast_weights_rnn(
        np.array([[[2.0]], [[1.0]]]),
        np.array([[0.5]]),
        lambda written, read: 0.5 ** (read - written),
        0.25,
        layer_norm=False,
    )
    # A(0) = 0, h(1) = 2; A(1) = 1, z = 1 + 1 = 2, h_0 = 2, h(2) = 2 + 1·2
    assert output[:, 0, 0].tolist() == [2.0, 4.0]


@pytest.mark.parametrize("how", FORMS, ids=str)
def test_w_and_a_are_used_whole(how):
    """Public code has read only the diagonal of W (einsum "hh,bh->bh")."""
    given = problem(6, 2, 5, carried=2)
    output = run(given, **how)[0]
    recurrent = given.weights.recurrent
    for row, column in [(0, 1), (4, 2)]:
        nudged = recurrent.clone()
        nudged[row, column] += 0.1
        other = dataclasses.replace(given, weights=given.weights._replace(recurrent=nudged))
        assert (run(other, **how)[0] - output).abs().max() > 1e-4
    memory = run(given, **how)[2]
    assert (memory - torch.diag_embed(memory.diagonal(dim1=-2, dim2=-1))).abs().max() > 1e-2


@pytest.mark.parametrize("how", FORMS, ids=str)
@pytest.mark.parametrize("norm", ORACLE["norm"], ids=str)
def test_a_sample_depends_on_itself_alone(how, norm):
    """Public code has normalised over the batch. Here not even NaN crosses over."""
    given = problem(7, 5, 4, carried=2, inner_steps=2, **norm).to(torch.float64)
    output, after, memory = run(given, **how)
    output[:, 3].sum().backward()
    assert given.drive.grad[:, 3].abs().sum() > 0
    for other in (0, 1, 2, 4):
        assert given.drive.grad[:, other].abs().sum() == 0
        assert given.state.hidden.grad[other].abs().sum() == 0
        assert given.state.history.grad[:, other].abs().sum() == 0
    with torch.no_grad():
        given.drive[2, 3] = torch.nan
    spoilt = run(given, **how)
    others = [0, 1, 2, 4]
    assert spoilt[0][2:, 3].isnan().any()
    assert_close(spoilt[0][:, others], output[:, others])
    assert_close(spoilt[1].hidden[others], after.hidden[others])
    assert_close(spoilt[2][others], memory[others])


PIECES = {
    "decay": sorted({*RECURRENT, *STATIONARY}),
    "write": ["before_read", "after_read"],
    "detach_writes": [False, True],
    "inner_steps": [0, 1, 2],
    "carried": [0, 2],
    "cuts": [(1, 7), (4, 3, 1), (2, 2, 2, 2)],
}


@pytest.mark.parametrize("case", all_pairs(PIECES, seed=1), ids=_id)
def test_in_pieces_as_in_one_go(case):
    """Values and gradients through the state, for every decay and form."""
    case = dict(case)
    cuts, decay = case.pop("cuts"), case["decay"]
    for how in FORMS:
        if not _can(how, decay):
            continue
        whole = problem(8, 2, 4, **case).to(torch.float64)
        pieces = whole.to(torch.float64)

        def in_pieces(given, how=how):
            state, outputs, start = given.state, [], 0
            for size in cuts:
                part = dataclasses.replace(
                    given, drive=given.drive[start : start + size], state=state
                )
                output, state, memory = run(part, **how)
                outputs.append(output)
                start += size
            return torch.cat(outputs), state, memory

        results = {}
        for name, given, runner in (("whole", whole, run), ("pieces", pieces, in_pieces)):
            output, after, memory = runner(given, **(how if runner is run else {}))
            generator = torch.Generator().manual_seed(3)
            loss = sum(
                (torch.randn(r.shape, generator=generator, dtype=r.dtype) * r).sum()
                for r in (output, after.hidden, memory)
            )
            leaves = given.leaves()
            gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
            results[name] = {
                "output": output,
                "hidden": after.hidden,
                "memory": memory,
                **{f"d {k}": g for k, g in zip(leaves, gradients, strict=True) if g is not None},
            }
            assert after.steps.tolist() == [8 + case["carried"]] * 2
        assert results["whole"].keys() == results["pieces"].keys()
        for name, expected in results["whole"].items():
            assert_close(results["pieces"][name], expected, f"{how} {name}")


@pytest.mark.parametrize("norm", ORACLE["norm"], ids=str)
@pytest.mark.parametrize(("how", "decay"), POSSIBLE, ids=str)
def test_samples_of_different_lengths(how, norm, decay):
    """Each sample as if it were alone and ended where it ends; also one that has no step at all."""
    lengths = [5, 0, 2, 7]
    given = problem(7, 4, 4, decay=decay, carried=2, lengths=lengths, **norm).to(torch.float64)
    output, after, memory = run(given, **how)
    weights = torch.randn(output.shape, dtype=torch.float64)
    (weights * output).sum().backward()
    apart = given.to(torch.float64)
    for sample, length in enumerate(lengths):
        assert (output[length:, sample] == 0).all()
        assert after.steps[sample] == 2 + length
        one = slice(sample, sample + 1)
        state = apart.state
        own = LayerState(state.hidden[one], state.steps[one], state.history[:, one])
        if length == 0:
            assert_close(after.hidden[one], own.hidden)
            assert_close(memory[one], matrix_of(own, apart))
            continue
        alone = dataclasses.replace(apart, drive=apart.drive[:length, one], state=own, lengths=None)
        expected, end, own_memory = run(alone, **how)
        assert_close(output[:length, one], expected)
        assert_close(after.hidden[one], end.hidden)
        assert_close(memory[one], own_memory)
        (weights[:length, one] * expected).sum().backward()
    for (name, leaf), other in zip(given.leaves().items(), apart.leaves().values(), strict=True):
        if other.grad is not None:
            assert_close(leaf.grad, other.grad, name)


@pytest.mark.parametrize("how", FORMS, ids=str)
@pytest.mark.parametrize("inner_steps", [0, 1])
def test_a_sample_that_ended_stays_quiet(how, inner_steps):
    """Run on past its end this sample would overflow, and its gradient become NaN."""
    given = problem(200, 2, 3, layer_norm=False, inner_steps=inner_steps, lengths=[200, 2])
    given.drive[:, 0] = 0
    given.drive[:, 1] = 1
    given.weights.recurrent[:] = 60.0 * torch.eye(3) * (1 - inner_steps)
    given.write_rate.fill_(3.0 * inner_steps)
    given = given.to(torch.float32)
    for name, tensor in solve(given, **how).items():
        assert tensor.isfinite().all(), name


@pytest.mark.parametrize("how", FORMS, ids=str)
def test_detached_writes_carry_no_gradient(how):
    """The gradient is that of a network whose memory is a constant."""
    given = problem(5, 2, 4, carried=2, detach_writes=True).to(torch.float64)
    output, _, _ = run(given, **how)
    # the same network with the writes replaced by their values, written out
    options = dataclasses.replace(given.options, memory="static", detach_writes=False)
    hidden, constant = given.state.hidden, given.to(torch.float64)
    plain = []
    for t in range(5):
        upto = dataclasses.replace(constant, drive=constant.drive[: t + 1])
        vectors = torch.cat([given.state.history, given.state.hidden[None], run(upto)[0]])
        matrix = torch.zeros(2, 4, 4, dtype=torch.float64)
        for age, h in enumerate(vectors[: t + 3].flip(0)):
            matrix += given.write_rate * 0.9**age * torch.einsum("bi,bj->bij", h, h).detach()
        rows = []
        for sample in range(2):
            one = dataclasses.replace(
                given,
                drive=given.drive[t : t + 1, sample : sample + 1],
                weights=given.weights._replace(memory=matrix[sample]),
                state=LayerState(hidden[sample : sample + 1], given.state.steps[:1]),
                options=options,
            )
            rows.append(run(one)[0][0, 0])
        hidden = torch.stack(rows)
        plain.append(hidden)
    expected = torch.stack(plain)
    assert_close(output, expected)
    weights = torch.randn(output.shape, dtype=torch.float64)
    leaves = [given.drive, given.weights.recurrent, given.write_rate, given.state.hidden]
    ours = torch.autograd.grad((weights * output).sum(), leaves, retain_graph=True)
    theirs = torch.autograd.grad((weights * expected).sum(), leaves)
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("how", FORMS, ids=str)
def test_norm_without_gain_and_bias(how):
    given = problem(5, 2, 4)
    bare = given.weights._replace(norm_weight=None, norm_bias=None)
    ones = SlowWeights(given.weights.recurrent, torch.ones(4).double(), torch.zeros(4).double())
    bare, ones = (dataclasses.replace(given, weights=weights) for weights in (bare, ones))
    assert_close(run(bare, **how)[0], run(ones, **how)[0])
    expected = solve(ones.to(torch.float64))
    for name, tensor in solve(bare.to(torch.float64), **how).items():
        assert_close(tensor, expected[name], name)


def test_history_moves_to_the_end():
    history = torch.arange(1.0, 5.0)[:, None, None].expand(4, 3, 1)
    moved = right_aligned(history, 3, torch.tensor([3, 1, 0]))
    assert moved[:, :, 0].t().tolist() == [[1, 2, 3, 4], [0, 0, 1, 2], [0, 0, 0, 1]]


def test_memories_beyond_the_horizon_are_dropped():
    history = torch.arange(6.0)[:, None, None]
    assert trimmed(history, decay_named("free")).flatten().tolist() == [2, 3, 4, 5]
    assert trimmed(history[:3], decay_named("free")).shape[0] == 3
    assert trimmed(history, decay_named("power-law")).shape[0] == 6
    assert run(problem(9, 1, 3, decay="free"))[1].history.shape[0] == 4
    assert run(problem(9, 1, 3, decay="free"), backend="native")[1].history.shape[0] == 4
