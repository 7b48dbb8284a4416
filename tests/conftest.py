"""What holds for all tests: a property is judged by what it says, never by how long it takes."""

from hypothesis import settings

settings.register_profile("hybrid-llm", deadline=None)
settings.load_profile("hybrid-llm")
