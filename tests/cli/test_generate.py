"""`hybrid-llm generate`: answers, streams, stops, and fails with one message and the code of its family."""

import ast
import json
import re
import signal
import time

import pytest

from hybrid_llm.backends.wire.certificates import issue, make_authority
from hybrid_llm.cli.terminal import printable

REVIEW = "Is this review positive? 'A warm, funny film.'"


def test_it_answers_with_the_embedded_model_and_nothing_else_on_standard_output(cli):
    result = cli("generate", REVIEW, "--max-tokens", 24)
    assert (result.code, result.err) == (0, "")
    assert "positive" in result.out


def test_verbose_prints_decision_and_timings_to_standard_error(cli):
    result = cli("generate", REVIEW, "--max-tokens", 8, "--verbose")
    assert "order: edge" in result.err
    assert "first token after" in result.err
    assert "order:" not in result.out


def test_json_is_one_document_with_answer_decision_usage_and_timings(cli):
    result = cli("generate", REVIEW, "--json", "--max-tokens", 8, "--privacy", "phi", "--seed", 3)
    answer = json.loads(result.out)
    assert answer["backend"] == "edge"
    assert answer["decision"]["tags"] == ["phi"]
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"]
    assert answer["timings"]["ttft_ms"] > 0


def test_the_prompt_can_come_from_standard_input_and_the_answer_can_follow_a_schema(cli, tmp_path):
    schema = tmp_path / "schema.json"
    shape = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    schema.write_text(json.dumps({**shape, "additionalProperties": False}))
    result = cli("generate", "-", "--schema", schema, "--max-tokens", 40, stdin=REVIEW.encode())
    assert result.code == 0
    assert isinstance(json.loads(result.out)["ok"], bool)
    answer = json.loads(cli("generate", REVIEW, "--schema", schema, "--max-tokens", 40, "--json").out)
    assert answer["parsed"] == json.loads(answer["text"])
    assert "parse" not in answer
    assert json.loads(cli("generate", REVIEW, "--schema", schema, "--max-tokens", 2, "--json").out)["parsed"] is None


def test_log_probabilities_follow_the_answer_on_standard_error_as_a_table(cli):
    plain = cli("generate", REVIEW, "--max-tokens", 24)
    result = cli("generate", REVIEW, "--max-tokens", 24, "--logprobs", 2)
    assert (result.code, result.out) == (0, plain.out)
    rows = [line.split(maxsplit=1) for line in result.err.splitlines()]
    assert all(re.fullmatch(r"\d+\.\d%", chance) for chance, _ in rows)
    assert (
        "".join(ast.literal_eval(re.match(r"'[^']*'|\"[^\"]*\"", rest)[0]) for _, rest in rows) == result.out.rstrip()
    )
    assert all("%" in rest for _, rest in rows), "another token beside each"
    answer = json.loads(cli("generate", REVIEW, "--max-tokens", 24, "--logprobs", 2, "--json").out)
    assert "".join(token["token"] for token in answer["logprobs"]) == answer["text"]
    assert {len(token["top_logprobs"]) for token in answer["logprobs"]} == {2}


@pytest.mark.parametrize(
    "arguments",
    [
        ["", "--max-tokens", "4"],
        ["x", "--logprobs", "21"],
        ["x", "--temperature", "nan"],
        ["x", "--max-tokens", "-1"],
        ["x", "--deadline", "0"],
        ["x", "--privacy", "nobody-declared-this"],
        ["x", "--stop", ""],
        ["x", "--max-tokens", "many"],
        ["\udcff"],
    ],
)
def test_a_wrong_request_is_code_2_and_one_message(cli, arguments):
    result = cli("generate", *arguments)
    assert result.code == 2
    assert "Traceback" not in result.err
    assert result.err


def test_standard_input_that_is_not_text_is_code_2(cli):
    assert cli("generate", "-", stdin=b"\xff\xfe").code == 2


@pytest.mark.parametrize("name", ["absent.yaml", "."])
def test_a_configuration_that_cannot_be_read_is_code_3(cli, tmp_path, name):
    result = cli("generate", "x", "--config", tmp_path / name)
    assert result.code == 3
    assert "cannot be read" in result.err


def test_the_environment_names_the_configuration_if_the_command_line_does_not(cli, monkeypatch, configure):
    monkeypatch.setenv("HYBRID_LLM_CONFIG", "absent.yaml")
    assert "absent.yaml" in cli("generate", "x").err
    assert "127.0.0.1:1" in cli("generate", "x", "--config", configure(1)).err


def test_a_schema_that_is_absent_is_code_3(cli, tmp_path):
    assert cli("generate", "x", "--schema", tmp_path / "absent.json").code == 3


def test_a_prompt_of_a_megabyte_is_refused_at_once_and_not_repeated(cli):
    result = cli("generate", "-", stdin=b"zebra crossing " * 80_000)
    assert result.code == 4
    assert "zebra" not in result.err
    assert len(result.err) < 1000


def test_a_private_request_with_only_a_cloud_is_code_4_and_says_why(cli, configure):
    result = cli("generate", "x", "--config", configure(1), "--privacy", "phi")
    assert result.code == 4
    assert "tag phi allows only edge" in result.err


def test_an_unreachable_node_is_code_4_after_every_backend_was_tried(cli, configure):
    result = cli("generate", "x", "--config", configure(1), "--deadline", "5")
    assert result.code == 4
    assert "nothing listens on 127.0.0.1:1" in result.err


def test_an_exceeded_deadline_is_code_5(cli, configure, node):
    result = cli("generate", "tick", "--config", configure(node.port), "--deadline", "2")
    assert result.code == 5
    assert "deadline" in result.err
    begun = "no backend was called" not in result.err  # a busy machine may need all of the time to begin
    assert not begun or result.out.endswith("t\n"), "the message would follow the answer on the same line"


def test_a_node_of_another_authority_is_code_6(cli, configure, node, tmp_path):
    make_authority(tmp_path / "other", name="somebody else")
    issue(tmp_path / "other", "app")
    result = cli("generate", "x", "--config", configure(node.port, folder=tmp_path / "other"))
    assert result.code == 6
    assert "another authority" in result.err


def test_the_answer_is_streamed(start, configure, node):
    process = start("generate", "tick", "--config", configure(node.port), "--max-tokens", 100)
    assert process.stdout.read(1)
    first = time.monotonic()
    process.stdout.read()
    assert process.wait(20) == 0
    assert time.monotonic() - first > 0.5, "100 tokens of 20 ms each were held back and shown at once"


def test_ctrl_c_stops_the_node_at_once_and_leaves_with_130(start, configure, node):
    process = start("generate", "tick", "--config", configure(node.port))
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert process.stderr.read() == b""
    assert node.engine.left.wait(5), "the node went on generating"


def test_ctrl_c_on_the_device_leaves_with_130(start):
    process = start("generate", "Tell me everything.", "--temperature", 100, "--max-tokens", 450, "--seed", 1)
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert process.stderr.read() == b""


def test_a_reader_that_goes_away_is_quiet(start, configure, node):
    process = start("generate", "tick", "--config", configure(node.port))
    assert process.stdout.read(1)
    process.stdout.close()
    assert process.wait(10) == 141
    assert process.stderr.read() == b""
    assert node.engine.left.wait(5)


def test_a_message_in_the_middle_of_an_answer_has_a_line_of_its_own(terminal):
    view = terminal("generate", REVIEW, "--max-tokens", 3, "--verbose")
    assert view.end(60) == 0
    lines = view.shown.splitlines()
    assert [line for line in lines if "first token" in line and line.startswith("hybrid-llm: request")]


def test_an_answer_cannot_control_the_terminal():
    assert printable("a\x1b]0;title\x07b\r\n\tc\x9b") == "a\\x1b]0;title\\x07b\\x0d\n\tc\\x9b"
