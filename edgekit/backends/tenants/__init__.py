"""What runs in a foreign interpreter: each file stands alone, clean for Python 3.6, without edgekit."""
