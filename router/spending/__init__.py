"""Prices of backends, the ledger of what tenants have spent, and the charge of each call."""
