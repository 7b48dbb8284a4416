"""Values that have a format: addresses, numbers of people, cards and accounts."""
