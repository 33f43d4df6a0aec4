"""The best of n samples by a reward model: who judges them, and what choosing is worth beside other policies."""
