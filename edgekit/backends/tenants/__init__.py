"""What runs in a foreign interpreter: each file runs alone in Python 3.6, without edgekit."""
