"""Uses of fast weights after Hinton & Plaut, "Using fast weights to deblur old memories" (1987)."""
