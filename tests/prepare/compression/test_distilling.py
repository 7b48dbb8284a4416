"""Distillation: the student comes nearer to its teacher, private text stays, and a kill costs nothing twice."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from hybrid_llm.core.errors import BackendUnavailable, ConfigError
from hybrid_llm.prepare.compression.distilling.answers import Answer, Answers, Prompt, TeacherStopped, collect
from hybrid_llm.prepare.compression.distilling.logits import store_tokens
from hybrid_llm.prepare.compression.distilling.step import Distil
from hybrid_llm.prepare.compression.distilling.vocabulary import match_vocabularies
from hybrid_llm.prepare.compression.examples import Example, blocks, padded
from hybrid_llm.prepare.compression.folders import open_model
from hybrid_llm.prepare.compression.losses import divergence, whole_divergence
from hybrid_llm.prepare.compression.training import Schedule, train
from hybrid_llm.prepare.data.folder import DataFormat
from tests.backends.http.server import CUT, WHOLE, events, head, scripted
from tests.prepare.compression import tiny

EMAIL = "Write to jane.doe@example.com about the storm."
QUIET: Any = lambda what, share: None  # noqa: E731


def distance(student: Path, teacher: Path, texts: Path) -> float:
    """The mean divergence of the probabilities of *student* from those of *teacher*, over the whole vocabulary."""
    import torch

    ids, mask = padded([each.ids for each in blocks(texts, teacher, 32, 8)])
    with torch.inference_mode():
        mine, theirs = (open_model(each)(ids, attention_mask=mask).logits for each in (student, teacher))
    return float(whole_divergence(mine, theirs, 1.0))


class TestFromLogits:
    def test_the_student_comes_nearer_to_its_teacher(self, tmp_path: Path, texts: Path) -> None:
        student = tiny.write_decoder(tmp_path / "student", seed=2, width=32, layers=2)
        work = tiny.work(tmp_path, "out")
        step = Distil(
            data=tiny.named(texts),
            teacher=tiny.named(tiny.DEMO),
            student=tiny.named(student),
            steps=40,
            batch=4,
            learning_rate=5e-3,
            length=32,
        )
        outcome = step.run(work)
        assert distance(work.out, tiny.DEMO, texts) < 0.8 * distance(student, tiny.DEMO, texts)
        assert outcome.metrics["perplexity"] < outcome.before["perplexity"]
        stored = outcome.metrics["stored_mb"] * 1e6 / outcome.metrics["learnt_tokens"]
        assert stored < 32 * 4 + 100, "bytes for each token: 32 ids and probabilities of two bytes each"

    def test_a_classifier_made_of_half_of_its_teacher(self, tmp_path: Path, classifier: Path, topics: Path) -> None:
        work = tiny.work(tmp_path, "out")
        step = Distil(data=tiny.named(topics), teacher=tiny.named(classifier), layers=1, inner=32, steps=60, batch=16)
        outcome = step.run(work)
        assert outcome.metrics["accuracy"] > 0.9
        assert outcome.metrics["parameters"] < open_model(classifier).num_parameters()

    def test_vocabularies_that_differ_are_refused(self, tmp_path: Path, decoder: Path, texts: Path) -> None:
        student = tiny.write_decoder(tmp_path / "student", seed=2)
        tiny.write_other_vocabulary(student)
        step = Distil(data=tiny.named(texts), teacher=tiny.named(decoder), student=tiny.named(student), length=32)
        with pytest.raises(ConfigError, match=r"split \d+ of \d+ texts differently.*method: sequences"):
            step.run(tiny.work(tmp_path, "out"))

    def test_tokens_with_other_numbers_are_mapped(self, tmp_path: Path, decoder: Path) -> None:
        """A student that knows the first 1,900 tokens, numbered backwards."""
        student = tmp_path / "student"
        student.mkdir()
        document = json.loads((decoder / "tokenizer.json").read_text())
        words = dict(document["model"]["vocab"])
        last = max(words.values())
        document["model"]["vocab"] = {token: last - number for token, number in words.items()}
        for added in document["added_tokens"]:
            added["id"] = last - added["id"]
        document.pop("post_processor", None)
        (student / "tokenizer.json").write_text(json.dumps(document))
        found = match_vocabularies(decoder, student, ["When on board", "42 + 1"])
        for token, number in words.items():
            assert found.to_student[number] == last - number, token
            assert found.to_teacher[last - number] == number

    @given(seed=st.integers(0, 99), count=st.integers(1, 12), temperature=st.sampled_from([0.5, 1.0, 3.0]))
    def test_the_stored_distance_is_the_true_one_where_all_tokens_are_stored(
        self, seed: int, count: int, temperature: float
    ) -> None:
        """With a rest it is less, never negative, and nothing for equal models."""
        import torch

        torch.manual_seed(seed)
        mine, theirs = torch.randn(4, 12), torch.randn(4, 12)
        logs = (theirs / temperature).log_softmax(-1)
        best, ids = logs.topk(count)
        tail = torch.log((1 - best.exp().sum(-1)).clamp_min(1e-30)).clamp_min(-60)
        stored = float(divergence(mine, ids, best, tail, temperature))
        true = float(whole_divergence(mine, theirs, temperature))
        assert -1e-4 <= stored <= true + 1e-3
        assert count < 12 or stored == pytest.approx(true, rel=1e-3, abs=1e-3)
        assert float(divergence(theirs, ids, best, tail, temperature)) == pytest.approx(0, abs=1e-4)

    def test_what_a_killed_run_has_stored_is_not_computed_again(
        self, tmp_path: Path, decoder: Path, texts: Path
    ) -> None:
        examples = blocks(texts, decoder, 16, 24)
        vocabulary = match_vocabularies(decoder, decoder, ["When on board"])
        model, calls = open_model(decoder), []
        model.register_forward_pre_hook(lambda *_: calls.append(1))

        def store() -> bytes:
            stored = store_tokens(
                model, examples, vocabulary, tmp_path / "teacher", QUIET, likeliest=8, temperature=1.0
            )
            return b"".join(part.tobytes() for number in range(len(examples)) for part in stored.of(number))

        whole = store()
        (tmp_path / "teacher" / "000001.npz").unlink()
        (tmp_path / "teacher" / ".000001.npz.partial").write_bytes(b"half")
        assert len(calls) == 3
        assert store() == whole
        assert len(calls) == 4


@dataclass
class Scholar:
    """A teacher that answers with the number of the question, until it fails."""

    fails_after: int = 10**9
    tokens: int = 3
    asked: list[Prompt] = field(default_factory=list)

    def answer(self, prompt: Prompt) -> tuple[str | None, int]:
        if len(self.asked) == self.fails_after:
            raise BackendUnavailable("connection refused", backend="cloud")
        self.asked.append(prompt)
        return f"answer to {len(self.asked)}", self.tokens

    def close(self) -> None:
        pass


def prompts(count: int) -> list[Prompt]:
    return [Prompt(turns=(("user", f"question {number}"),)) for number in range(count)]


class TestAnswers:
    def test_a_teacher_that_dies_is_asked_only_for_the_rest(self, tmp_path: Path) -> None:
        answers = Answers.within(tmp_path)
        with pytest.raises(TeacherStopped, match=r"after 2 of 5 answers.*run it again to go on") as failure:
            collect(prompts(5), lambda: Scholar(fails_after=2), answers, QUIET, most_tokens=0)
        assert (failure.value.answered, failure.value.asked) == (2, 5)
        assert "question" not in str(failure.value)
        second = Scholar()
        assert len(collect(prompts(5), lambda: second, answers, QUIET, most_tokens=0)) == 5
        assert [prompt.turns[0][1] for prompt in second.asked] == ["question 2", "question 3", "question 4"]

    def test_a_budget_holds_over_several_runs(self, tmp_path: Path) -> None:
        answers, scholar = Answers.within(tmp_path), Scholar(tokens=4)
        for most in (4, 10, 10):
            collect(prompts(9), lambda: scholar, answers, QUIET, most_tokens=most)
        assert len(scholar.asked) == 3, "12 tokens: the answer that passes the limit is the last"

    @given(cut=st.integers(0, 200))
    def test_a_line_that_a_kill_cut_off_is_asked_for_again(self, tmp_path_factory: Any, cut: int) -> None:
        answers = Answers.within(tmp_path_factory.mktemp("answers"))
        for number in range(3):
            answers.add(Answer(number=number, text=f"ü{number}", tokens=1))
        whole = answers.path.read_bytes()
        answers.path.write_bytes(whole[:cut])
        kept = whole[:cut].count(b"\n")
        assert list(answers.read()) == list(range(kept))
        answers.add(Answer(number=kept, text="again", tokens=1))
        assert answers.read()[kept].text == "again" or kept == 0


def backend_config(folder: Path, url: str) -> Path:
    """A hybrid.yaml with a teacher in the cloud, to which e-mail addresses do not go."""
    (folder / "policy.yaml").write_text(
        "version: 1\nname: school\ntags: {pii: {allow: [edge], detect: [email]}, secret: {allow: [edge]}}\n"
        "rules: [{prefer: [cloud, edge]}]\n"
    )
    cloud = f'{{kind: openai, base_url: "{url}", model: m, insecure: true}}'
    path = folder / "hybrid.yaml"
    path.write_text(
        f"version: 1\npolicy: policy.yaml\nbackends: {{edge: {{kind: onnx, model: embedded}}, cloud: {cloud}}}\n"
    )
    return path


def chat(folder: Path, questions: Sequence[str]) -> Path:
    turns = [[{"role": "user", "content": each}, {"role": "assistant", "content": "old"}] for each in questions]
    return tiny.write_data(folder, DataFormat.CHAT, [{"messages": each} for each in turns])


class TestATeacherInTheCloud:
    def test_private_prompts_never_reach_it_and_the_student_learns_the_rest(
        self, tmp_path: Path, decoder: Path
    ) -> None:
        data = chat(tmp_path / "data", [EMAIL, "What is rain?", "What is snow?"])
        work = tiny.work(tmp_path, "out")
        with scripted([head(), events(*WHOLE, "[DONE]")]) as server:
            step = Distil(
                data=tiny.named(data),
                config=backend_config(tmp_path, server.url),
                student=tiny.named(decoder),
                method="sequences",
                steps=6,
                batch=2,
                learning_rate=1e-2,
            )
            outcome = step.run(work)
        sent = json.dumps(server.bodies)
        assert len(server.bodies) == 2
        assert all(
            (word in sent) is goes
            for word, goes in {"rain": True, "snow": True, "jane.doe": False, "storm": False}.items()
        )
        found = {name: outcome.metrics[name] for name in ("prompts", "answers", "private_prompts", "teacher_tokens")}
        assert found == {"prompts": 3, "answers": 2, "private_prompts": 1, "teacher_tokens": 4}
        assert outcome.metrics["loss_last"] < outcome.metrics["loss_first"]

    def test_tags_of_the_data_hold_for_every_prompt(self, tmp_path: Path, decoder: Path) -> None:
        data = chat(tmp_path / "data", ["What is rain?"])
        with scripted([head(), events(*WHOLE, "[DONE]")]) as server:
            step = Distil(
                data=tiny.named(data),
                config=backend_config(tmp_path, server.url),
                student=tiny.named(decoder),
                method="sequences",
                privacy=("secret",),
            )
            with pytest.raises(ConfigError, match="no answer that can be learnt"):
                step.run(tiny.work(tmp_path, "out"))
        assert not server.bodies

    def test_one_that_is_killed_stops_the_step_and_keeps_its_answers(self, tmp_path: Path, decoder: Path) -> None:
        data = chat(tmp_path / "data", ["What is rain?", "What is snow?"])
        work = tiny.work(tmp_path, "out")
        with scripted([head(), events(*WHOLE, "[DONE]")], [CUT]) as server:
            step = Distil(
                data=tiny.named(data),
                config=backend_config(tmp_path, server.url),
                student=tiny.named(decoder),
                method="sequences",
            )
            with pytest.raises(TeacherStopped, match="after 1 of 2 answers"):
                step.run(work)
        assert len(Answers.within(work.scratch).read()) == 1

    @pytest.mark.parametrize(
        ("options", "said"),
        [({"method": "logits"}, "needs the teacher as a folder"), ({"backend": "clown"}, "has no backend `clown`")],
    )
    def test_what_cannot_teach(self, tmp_path: Path, decoder: Path, texts: Path, options: Any, said: str) -> None:
        config = backend_config(tmp_path, "http://127.0.0.1:9/v1")
        step = Distil(
            **{"data": tiny.named(texts), "config": config, "student": tiny.named(decoder), "method": "sequences"}
            | options
        )
        with pytest.raises(ConfigError, match=said):
            step.run(tiny.work(tmp_path, "out"))


TRAIN = """
import sys
from pathlib import Path
import torch
from hybrid_llm.prepare.compression import training
from hybrid_llm.prepare.compression.training import Schedule, train
training._EVERY_S = 0.0
torch.set_num_threads(1)
def loss(model, step):
    if step == 30:
        print("half", flush=True)
    return model(torch.full((16, 4), step / 60)).square().mean()
for folder in sys.argv[1:]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
    train(model, loss, Schedule(steps=60, learning_rate=0.01, seed=1), Path(folder), lambda what, share: None)
    print("end", sum(float(each.double().sum()) for each in model.parameters()))
"""


class TestTraining:
    def test_a_killed_run_ends_as_one_that_was_not(self, tmp_path: Path) -> None:
        def start(*names: str) -> subprocess.Popen[str]:
            folders = [str(tmp_path / name) for name in names]
            return subprocess.Popen([sys.executable, "-c", TRAIN, *folders], stdout=subprocess.PIPE, text=True)

        killed = start("killed")
        assert killed.stdout is not None
        assert killed.stdout.readline() == "half\n"
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        assert (tmp_path / "killed" / "checkpoint.pt").is_file()
        shutil.copytree(tmp_path / "killed", tmp_path / "resumed")
        said = start("resumed", "whole").communicate()[0].splitlines()
        ends = [line for line in said if line.startswith("end ")]
        assert len(ends) == 2
        assert ends[0] == ends[1]

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_products_are_of_the_precision_and_weights_of_single(self, tmp_path: Path, precision: str) -> None:
        import torch

        model, seen = torch.nn.Linear(4, 1), set()

        def loss(model: Any, step: int) -> Any:
            found = model(torch.full((8, 4), 1.0))
            seen.add(found.dtype)
            return (found.float() - 3).square().mean()

        schedule = Schedule(steps=40, learning_rate=0.1, seed=0, precision=precision)
        found = train(model, loss, schedule, tmp_path, QUIET)
        assert seen == {torch.bfloat16 if precision == "bf16" else torch.float32}
        assert {each.dtype for each in model.parameters()} == {torch.float32}
        assert found["loss_last"] < 0.1 * found["loss_first"]

    def test_a_loss_that_is_no_number_stops_it(self, tmp_path: Path) -> None:
        import torch

        model = torch.nn.Linear(2, 1)
        schedule = Schedule(steps=3, learning_rate=0.1, seed=0)
        with pytest.raises(ConfigError, match="use a lower learning_rate"):
            train(model, lambda model, step: model(torch.ones(2)).sum() * math.nan, schedule, tmp_path, QUIET)


def test_blocks_of_another_tokenizer_are_refused(tmp_path: Path, decoder: Path) -> None:
    folder = tiny.write_data(tmp_path / "blocks", DataFormat.BLOCKS, [{"input_ids": [1, 2, 3]}], tokenizer="0" * 64)
    with pytest.raises(ConfigError, match="packed for another tokenizer"):
        blocks(folder, decoder, 3, 1)


def test_every_example_comes_once_before_any_comes_again() -> None:
    from hybrid_llm.prepare.compression.examples import drawn

    examples = [Example((number,)) for number in range(10)]
    order = [number for step in range(10) for number in drawn(examples, 4, step, seed=3)]
    assert all(sorted(order[i : i + 10]) == list(range(10)) for i in range(0, 40, 10))
