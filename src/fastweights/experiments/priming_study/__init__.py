"""Words in noise: settings, networks, what is measured, findings, pictures."""
