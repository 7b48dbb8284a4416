"""Summarise, classify, extract and answer, each in one call; then many texts at once.

Any model works; `hybrid-llm models add smollm2-135m` brings a real one in a few seconds.
"""

from hybrid_llm import tasks

REPORT = (
    "The city council voted on Tuesday to close the old bridge for repairs. Traffic will use the new bridge for six "
    "months. The mayor, Anna Keller, said that the work cannot wait: engineers found cracks in two pillars."
)
REVIEWS = ["A warm, funny film.", "Dull and far too long.", "I laughed from the first minute to the last."]
LABELS = ["positive", "negative"]

print("summary: ", tasks.summarise(REPORT, sentences=1).text)
print("answer:  ", tasks.answer(REPORT, "Who is the mayor?").text)

found = tasks.classify(REVIEWS[0], LABELS, threshold=0.8)
print("label:   ", found.label, f"{found.score:.2f}", "by", found.backend, "" if found.is_confident else "(unsure)")

for review, outcome in zip(REVIEWS, tasks.batch(lambda text: tasks.classify(text, LABELS), REVIEWS), strict=True):
    print("of many: ", outcome.unwrap().label, "-", review)
