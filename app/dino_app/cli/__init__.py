"""The commands of the app: thin, one file each."""
