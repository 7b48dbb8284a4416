"""What happens to one request on the app's side: guard, signals, decision, attempts."""
