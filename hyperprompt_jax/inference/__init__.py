"""Using a trained model: loading it, answering, scoring and ranking, without TensorFlow."""
