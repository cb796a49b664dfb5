"""One trial in the fast weights: model, simulation, findings, pictures."""
