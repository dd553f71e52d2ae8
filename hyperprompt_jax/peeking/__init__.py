"""Looking inside: what a network's attention and its prompts are like, in pictures too."""
