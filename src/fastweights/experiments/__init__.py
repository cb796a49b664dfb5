"""One file per published result: configurations, the paper's figures as data, what to show."""
