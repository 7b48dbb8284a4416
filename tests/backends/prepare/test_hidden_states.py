"""A converted Hugging Face folder gives the hidden states of transformers, if it was asked for, and else none."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from hybrid_llm.backends.edge.folder import read_manifest
from hybrid_llm.backends.edge.model import EdgeModel
from hybrid_llm.backends.models import convert, write_manifest
from hybrid_llm.core.errors import ConfigError

PROMPT = [4, 1, *range(300, 340), 3, 2]


@pytest.fixture(scope="module")
def folder(tiny_root, tmp_path_factory):
    out = tmp_path_factory.mktemp("hidden") / "fp32"
    convert(tiny_root / "hf", out, "fp32", parity_steps=8, hidden_states=True)
    return out


def test_they_are_those_of_transformers_after_the_prompt_and_after_each_step(tiny_root, folder):
    model = EdgeModel(folder, threads=1)
    reference = AutoModelForCausalLM.from_pretrained(tiny_root / "hf", dtype=torch.float32).eval()
    sequence = model.sequence(len(PROMPT) + 4, hidden_states=True)
    read, answer = list(PROMPT), sequence.append(PROMPT)
    for _ in range(4):
        with torch.inference_mode():
            expected = reference.model(torch.tensor([read])).last_hidden_state[0, -1].numpy()
        assert np.abs(sequence.hidden_state - expected).max() < 1e-3 * expected.std()
        read.append(int(answer.argmax()))
        answer = sequence.append(read[-1:])


def test_logits_are_the_same_and_a_sequence_that_does_not_ask_has_none(tiny_root, folder):
    models = [EdgeModel(path, threads=1) for path in (folder, tiny_root / "fp32")]
    sequences = [model.sequence(len(PROMPT)) for model in models]
    assert (sequences[0].append(PROMPT) == sequences[1].append(PROMPT)).all()
    for sequence in sequences:
        with pytest.raises(ValueError, match="hidden_states=True"):
            _ = sequence.hidden_state


def test_a_folder_without_them_says_how_to_get_them(tiny_root):
    model = EdgeModel(tiny_root / "fp32", threads=1)
    assert model.hidden_size == 0
    with pytest.raises(ValueError, match="--hidden-states"):
        model.sequence(8, hidden_states=True)


def test_onnxruntime_genai_runs_the_folder_too(folder):
    genai = pytest.importorskip("onnxruntime_genai")
    model = genai.Model(str(folder))
    params = genai.GeneratorParams(model)
    params.set_search_options(max_length=len(PROMPT) + 3, do_sample=False)
    generator = genai.Generator(model, params)
    generator.append_tokens(PROMPT)
    generator.generate_next_token()
    own = EdgeModel(folder, threads=1).sequence(len(PROMPT))
    assert int(generator.get_next_tokens()[0]) == int(own.append(PROMPT).argmax())


def test_a_layout_that_names_an_output_which_the_graph_lacks_is_refused(folder, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in folder.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    config = json.loads((broken / "genai_config.json").read_text())
    config["model"]["decoder"]["outputs"]["hidden_states"] = "absent"
    (broken / "genai_config.json").write_text(json.dumps(config))
    manifest = read_manifest(broken)
    write_manifest(
        broken, name="x", architecture=manifest.architecture, precision="fp32", parameters=manifest.parameters
    )
    with pytest.raises(ConfigError, match="hidden states"):
        EdgeModel(broken, threads=1)
