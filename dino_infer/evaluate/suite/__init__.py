"""Several protocols in one go: which have their data, and one scorecard of all."""
