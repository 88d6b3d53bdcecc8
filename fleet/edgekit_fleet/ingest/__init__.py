"""From the broker into the store: batched, committed before it is acknowledged, twice does no harm."""
