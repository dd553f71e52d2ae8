"""Study C: twelve English tasks, from networks that were pretrained on their text."""
