"""Answers that are cached on disk, encrypted: the second process, and the second of two at once, call no backend."""

import threading
from pathlib import Path
from tempfile import TemporaryDirectory

from hybrid_llm import DiskCache, HybridLLM
from hybrid_llm.backends.edge import EdgeBackend
from hybrid_llm.policies import builtin_policy

QUESTION = "Is this review positive? 'A warm, funny film.'"


def ask(llm: HybridLLM, text: str = QUESTION) -> None:
    """Print the answer, and where it came from."""
    reply = llm.generate(text, temperature=0, max_tokens=16)
    print(f"{reply.text!r}: {'from the cache' if reply.cached else reply.backend}, {reply.timings.total_ms:.1f} ms")


def client(folder: Path) -> HybridLLM:
    """A client whose cache is in *folder*."""
    edge = EdgeBackend()
    policy = builtin_policy("balanced", backends={edge.name: edge.location})
    return HybridLLM([edge], policy, cache=DiskCache(folder / "answers.db", max_age_s=86_400))


def main() -> None:
    """Ask in one client, in another one after it, and twice at the same time."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        for _ in range(2):
            with client(folder) as llm:
                ask(llm)
        with client(folder) as llm:
            twice = [threading.Thread(target=ask, args=(llm, "Is 'Dull and long.' positive?")) for _ in range(2)]
            for thread in twice:
                thread.start()
            for thread in twice:
                thread.join()
        files = b"".join(file.read_bytes() for file in folder.iterdir())
        print("the question is in the files:", QUESTION.encode() in files)


if __name__ == "__main__":
    main()
