"""What compares Regraft with others; every figure with its data, machine, versions and command."""
