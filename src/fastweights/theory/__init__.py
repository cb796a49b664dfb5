"""Closed forms beside the simulations that check them."""
