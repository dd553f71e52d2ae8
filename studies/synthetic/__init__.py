"""Study A: tasks that disagree about the same inputs, on finite data."""
