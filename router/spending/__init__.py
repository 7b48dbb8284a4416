"""What answers cost, and who may still spend: prices, a ledger for each tenant and day, and the charge of each call."""
