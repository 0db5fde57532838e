"""Tabs of the demo, one file each."""
