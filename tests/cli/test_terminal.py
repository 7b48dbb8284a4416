"""What a person at a real terminal sees: the prompt, an answer, a sign of life while waiting, and Ctrl-C."""

import subprocess


def test_a_conversation_prompts_answers_and_ends_with_ctrl_d(terminal):
    screen = terminal("chat")
    screen.wait_for("> ")
    screen.type("What is 1 + 1?\n")
    screen.wait_for("\r\n> ")
    assert "1" in screen.shown.split("\r\n")[1]
    screen.wait_until_it_reads()
    screen.type("\x03")
    screen.wait_for("Ctrl-C again")
    screen.wait_until_it_reads()
    screen.type("\x04")
    assert screen.end() == 0


def test_a_slow_answer_shows_that_it_is_awaited_and_ctrl_c_stops_it(terminal, configure, node):
    node.engine.delay = 2.5
    screen = terminal("generate", "tick", "--config", configure(node.port), TERM="xterm")
    screen.wait_for("waiting for cloud: loading the model or processing the prompt")
    screen.type("\x03")
    assert screen.end() == 130
    assert screen.shown.endswith("\x1b[2K"), "the line stayed"
    assert "\x1b[?25h" in screen.shown, "the cursor is hidden"
    assert "Traceback" not in screen.shown
    assert node.engine.left.wait(5)


def test_standard_output_that_is_closed_is_no_traceback(command):
    done = subprocess.run(
        f"{command} certs inspect absent.pem >&-", shell=True, capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
