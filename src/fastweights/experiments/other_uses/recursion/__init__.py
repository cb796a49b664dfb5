"""Recursion: the procedure, networks that run it, simulation, findings, pictures."""
