"""Services of a process: several hosts, interrupts, locks, files, the terminal."""
