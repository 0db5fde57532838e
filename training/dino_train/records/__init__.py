"""The files of a run: settings, snapshots, metrics, report."""
