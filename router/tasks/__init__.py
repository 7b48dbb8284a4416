"""What people do with a text: summarise, translate, classify, extract, answer. `hybrid_llm.tasks` is its face."""
