"""Training and validation data: SeqIO mixtures as batches of conditioned examples."""
