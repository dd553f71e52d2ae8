"""Study B: attention on prompts over depth, from backbones of independent pretraining."""
