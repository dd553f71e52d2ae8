"""What a process needs around its work: hosts, interrupts, locks, the terminal."""
