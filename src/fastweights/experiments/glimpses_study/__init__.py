"""Glimpses of MNIST: settings, networks, training, findings, pictures."""
