"""What experiments on associative retrieval share: settings, networks, training, tables, curves."""
