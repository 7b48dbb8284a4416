"""The ground floor: the records, errors and protocols that every room shares. It imports no other room."""
