"""``edgekit optimize``: from one trained model to the fastest variant of every board within the gate."""
