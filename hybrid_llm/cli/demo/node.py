"""The demonstration's node: `hybrid-llm serve` with a witness that writes down what its engine is given.

The witness stands behind TLS, gRPC, admission and the chat template, at the last place before the model: what it has
not seen, the node has not been told.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from hybrid_llm.backends.node.engine import EngineConfig, EngineOutput, EngineRequest
from hybrid_llm.backends.node.supervisor import EngineProcess
from hybrid_llm.cli import serve


class WitnessedEngine(EngineProcess):
    """An engine that appends each request, as text, to the file *witness* before it passes it on."""

    def __init__(self, config: EngineConfig, *, witness: Path, on_progress: Callable[[str], None]) -> None:
        from hybrid_llm.backends.text import ChatTokenizer

        super().__init__(config, on_progress=on_progress)
        self._witness = witness
        self._tokenizer = ChatTokenizer.load(config.model)

    def stream(self, request: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
        """As `EngineProcess` has."""
        told = [
            self._tokenizer.tokenizer.decode(list(request.prompt_ids), skip_special_tokens=False),
            request.output_schema or "",
            request.answer_prefix,
        ]
        with self._witness.open("a", encoding="utf-8") as file:
            file.write(json.dumps(told, ensure_ascii=False) + "\n")
        return super().stream(request)


def main() -> int:
    """Serve with the options of `hybrid-llm serve` and `--witness FILE`."""
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    parser.add_argument("--witness", type=Path, required=True)
    args = parser.parse_args()

    def engine(config: EngineConfig, *, on_progress: Callable[[str], None]) -> EngineProcess:
        return WitnessedEngine(config, witness=args.witness, on_progress=on_progress)

    return serve.run(args, engine=engine)


if __name__ == "__main__":
    sys.exit(main())
