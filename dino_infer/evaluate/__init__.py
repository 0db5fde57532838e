"""The published evaluation protocols, one file each."""
