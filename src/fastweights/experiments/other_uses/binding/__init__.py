"""Temporary binding: pools, simulation, findings, pictures."""
