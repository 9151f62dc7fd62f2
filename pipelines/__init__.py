"""The command-line binaries: absl flags and one call each."""
