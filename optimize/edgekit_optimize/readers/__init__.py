"""Readers: each brings one kind of trained model into the forms that makers start from."""
