"""Planning: what a compiled program costs, found without the machine that it is for."""
