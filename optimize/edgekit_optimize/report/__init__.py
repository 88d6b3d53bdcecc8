"""The report of a compression study: a page to read, data to read back, a card for the bundle."""
