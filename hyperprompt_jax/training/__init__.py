"""Training: settings, the step, the loop, optimizers and trainable parameters."""
