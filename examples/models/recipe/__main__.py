"""Make the demonstration models: `python -m examples.models.recipe all`; each step can also run alone."""

from __future__ import annotations

import argparse
from pathlib import Path

from tokenizers import Tokenizer

from examples.models.recipe import tokenizer as bpe
from examples.models.recipe.evaluation import ITEMS
from examples.models.recipe.models import NODE, SIZES
from examples.models.recipe.release import release
from examples.models.recipe.training import train

WORK = Path("build/models")


def load_tokenizer(work: Path, seed: int) -> Tokenizer:
    """Load the tokenizer from *work*; train it first if there is none."""
    folder = work / "tokenizer"
    if not (folder / "tokenizer.json").exists():
        bpe.save(bpe.train(seed), folder, NODE.context)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def train_sizes(names: list[str], options: argparse.Namespace) -> None:
    """Train the sizes in *names*, each into a folder of that name."""
    tokenizer = load_tokenizer(options.work, options.seed)
    for name in names:
        folder = options.work / name
        folder.mkdir(parents=True, exist_ok=True)
        edge = options.work / "edge" if name == "node" else None
        print(train(SIZES[name], tokenizer, folder, seed=options.seed, threads=options.threads, grown_from=edge))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.models.recipe", description=__doc__)
    parser.add_argument("command", choices=("tokenizer", "train", "release", "all"))
    parser.add_argument("--model", choices=tuple(SIZES), help="with train: only this one")
    parser.add_argument("--work", type=Path, default=WORK, help="where checkpoints lie")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=("int4", "int8"), default="int8", help="of the edge model")
    parser.add_argument("--items", type=int, default=ITEMS, help="held-out items of each task")
    return parser.parse_args()


def main() -> None:
    """Parse the command line and run its steps."""
    options = _options()
    if options.command in {"tokenizer", "all"}:
        load_tokenizer(options.work, options.seed)
    if options.command in {"train", "all"}:
        train_sizes([options.model] if options.model else list(SIZES), options)
    if options.command in {"release", "all"}:
        print(release(options.work, load_tokenizer(options.work, options.seed), options.precision, options.items))


if __name__ == "__main__":
    main()
