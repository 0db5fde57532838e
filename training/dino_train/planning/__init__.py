"""Plans of long runs: what they take, before they begin."""
