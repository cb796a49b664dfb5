"""Speed and memory, beside peers that run in the same process: ``fastweights bench``."""
