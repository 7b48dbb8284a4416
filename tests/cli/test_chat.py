"""`hybrid-llm chat`: turns, commands, the end of input, and Ctrl-C."""

import re
import signal


def talk(cli, *lines, options=()):
    return cli("chat", "--max-tokens", 12, *options, stdin="".join(f"{line}\n" for line in lines).encode())


def test_it_answers_line_by_line_until_the_input_ends(cli):
    result = talk(cli, "What is 1 + 1?", "", "What is 2 + 2?")
    assert result.code == 0
    assert len(result.out.strip().splitlines()) == 2
    assert result.err == ""


def test_earlier_turns_are_sent_along_until_reset(cli):
    lines = ["What is 1 + 1?", "What is 1 + 1?", "/reset", "What is 1 + 1?"]
    result = talk(cli, *lines, options=["--verbose"])
    first, second, third = (int(n) for n in re.findall(r"edge: (\d+) \+", result.err))
    assert first == third < second
    assert "conversation forgotten" in result.err


def test_why_explains_the_last_decision(cli):
    result = talk(cli, "/why", "What is 1 + 1?", "/why")
    assert result.err.startswith("no message has been sent yet")
    assert "order: edge" in result.err


def test_privacy_tags_hold_for_further_messages(cli):
    result = talk(cli, "/privacy phi", "What is 1 + 1?", "/why", "/privacy", "What is 1 + 1?", "/why")
    assert "privacy: phi" in result.err
    assert result.err.count("tags: phi") == 1
    assert "privacy: no tags" in result.err


def test_an_error_is_reported_and_the_conversation_continues(cli):
    result = talk(cli, "/privacy absent", "Hello", "/privacy", "What is 1 + 1?", "/exit", "What is 2 + 2?")
    assert "hybrid-llm: privacy tag 'absent' is not declared" in result.err
    assert result.code == 0
    assert len(result.out.strip().splitlines()) == 1


def test_an_unknown_command_lists_the_known_ones_and_calls_no_backend(cli):
    result = talk(cli, "/what")
    assert "/privacy TAG" in result.err
    assert result.out == ""


def test_why_explains_a_refusal_too(cli, configure):
    result = talk(cli, "/privacy phi", "Hello", "/why", options=["--config", configure(1)])
    assert result.err.count("tag phi allows only edge") == 2


def test_ctrl_c_stops_an_answer_and_not_the_conversation(start, configure, node):
    process = start("chat", "--config", configure(node.port))
    process.stdin.write(b"tick\n")
    process.stdin.flush()
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    assert b"stopped" in process.stderr.readline()
    assert node.engine.left.wait(5)
    process.stdin.write(b"/exit\n")
    process.stdin.flush()
    assert process.wait(10) == 0


def test_a_second_ctrl_c_at_the_prompt_leaves_with_130(start):
    process = start("chat")
    process.stdin.write(b"/help\n")
    process.stdin.flush()
    while b"/help" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    process.stderr.readline()
    assert b"Ctrl-C again" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
