"""Planning: the cost of a compiled program, without the machine that it is for."""
