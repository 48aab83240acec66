"""A reward model: how it is trained on preferences, and how a policy's run has its responses scored by it."""
