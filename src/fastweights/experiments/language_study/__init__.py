"""The parts of the experiment on language."""
