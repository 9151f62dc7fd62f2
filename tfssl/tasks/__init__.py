"""What users do, one function each: the binaries and notebooks call the same."""
