"""`hybrid-llm task`: each task in one command, with the codes of the other commands."""

import json


def test_a_label_comes_with_the_probability_of_each(cli):
    result = cli("task", "classify", "A warm, funny film.", "--labels", "positive, negative")
    assert result.code == 0
    label, *scores = result.out.splitlines()
    assert label in ("positive", "negative")
    assert sorted(line.split()[1] for line in scores) == ["negative", "positive"]
    assert scores[0].split()[1] == label


def test_json_has_the_scores_and_the_answers_they_come_from(cli):
    result = cli("task", "classify", "A warm, funny film.", "--labels", "positive,negative", "--json")
    document = json.loads(result.out)
    assert abs(sum(document["scores"].values()) - 1.0) < 1e-9
    assert document["backend"] == "edge"
    assert document["generations"][0]["decision"]["order"] == ["edge"]


def test_a_text_can_come_from_standard_input_with_a_tag(cli):
    result = cli("task", "summarise", "-", "--sentences", 1, "--privacy", "phi", "--json", stdin=b"The film is dull.")
    document = json.loads(result.out)
    assert document["text"]
    assert document["generations"][0]["decision"]["tags"] == ["phi"]


def test_bad_input_is_a_usage_error_that_quotes_no_text(cli):
    result = cli("task", "classify", "A secret text", "--labels", "one")
    assert (result.code, "pass 2 to 100" in result.err, "secret" in result.err) == (2, True, False)
    assert cli("task", "answer", "", "--question", "Who?").code == 2
    assert cli("task", "classify", "text").code == 2


def test_without_a_task_the_overview_is_shown(cli):
    result = cli("task")
    assert result.code == 2
    assert "classify" in result.out
