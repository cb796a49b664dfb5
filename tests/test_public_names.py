"""The names that users import, in one place, so that none goes or comes unnoticed."""

from __future__ import annotations

import importlib

import pytest

NAMES = {
    "fastweights": """
        FastWeightsRNN FastWeightsRNNCell FastWeightsState Overlay Overlays SlowFast __version__
        decay
    """,
    "fastweights.decay": """
        Decay Exponential Factorial Free PowerLaw StepIndexed SumOfExponentials as_decay
    """,
    "fastweights.nn": """
        AttentionLSTM FastWeightsRNN FastWeightsRNNCell FastWeightsState LayerNormLSTM LayerNormRNN
        irnn
    """,
    "fastweights.nn.baselines": """
        AttentionLSTM AttentionLSTMState LayerNormLSTM LayerNormRNN irnn
    """,
    "fastweights.ops.fast_weights": """
        InputProjection LayerState Options SlowWeights check_backend check_form fast_weights
    """,
    "fastweights.ops.slow_fast": "cpu foreach reference",
    "fastweights.optim": "Overlay Overlays SlowFast",
    "fastweights.tasks": """
        IGNORED Alphabet AssociativeRetrieval Catch CatchVector Mnist MnistSplit PrioritySort
        RepeatCopy Split Splits SymbolBatch Text TextStreams batch_indices batches
        binding_free_ceiling decode encode load_mnist load_text
    """,
    "fastweights.theory.memory": """
        LIFETIME_DECAYS Overlap Patterns SHOWN_DECAYS STORED VERDICT_RULE balanced_write_rate
        best_exponential best_power_law energy exact_overlap exponential_lifetime
        factorial_lifetime findings lifetime measured_overlap pair_ages pair_snr
        power_law_lifetime simulate_lifetime simulate_snr snr stable_write_rate sweeps
        unspecific_gain weights
    """,
    "fastweights.theory.transfer": """
        Course Estimate Finding RandomInputs Series VERDICT_RULE binary circumference_fraction
        course_limit expected_cosine findings load_limit pair_ratio pair_ratio_limit
        positive_transfer remaining_transfer retrained_set_ratio set_overlap simulate_angle
        simulate_course simulate_pairs simulate_positive_pairs simulate_set simulate_two_weights
        sweeps ternary
    """,
}


@pytest.mark.parametrize("module", NAMES)
def test_public_names(module: str) -> None:
    imported = importlib.import_module(module)
    assert sorted(imported.__all__) == sorted(NAMES[module].split())
    missing = [name for name in imported.__all__ if not hasattr(imported, name)]
    assert missing in ([], ["Catch", "CatchVector"])  # those two need the extra rl
