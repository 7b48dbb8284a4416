"""What is evaluated: models, backends and whole configurations, all asked through our own client and its guard."""
