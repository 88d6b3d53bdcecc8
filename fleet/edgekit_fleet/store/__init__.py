"""What the fleet remembers. SQL stands in this package only, so that another database has one place."""
