"""The kinds of guardrails: the default, lists of words, and how a `hybrid.yaml` names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks._guardrail_cases import DISGUISED, PAIRS
from hybrid_llm import ConfigError, ContentRefused, HybridLLM
from hybrid_llm.core.protocols import Direction, Verdict
from hybrid_llm.core.request import RequestMetadata
from hybrid_llm.guardrails import CATEGORIES, Denylist, default
from hybrid_llm.router.config import load_config
from hybrid_llm.router.guardrails.harms import rules
from hybrid_llm.router.guardrails.normal import normalised, readings
from tests.fakes import A_DAY

METADATA = RequestMetadata(deadline=A_DAY)


def judged(guardrail: Any, text: str, direction: Direction = Direction.INPUT) -> Verdict:
    verdict = guardrail.check(text, direction, METADATA)
    assert isinstance(verdict, Verdict)
    return verdict


class TestDefault:
    GUARDRAIL = default()

    @pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.harmful)
    def test_it_refuses_what_is_harmful_and_not_its_harmless_neighbour(self, pair):
        assert judged(self.GUARDRAIL, pair.harmful).category == pair.category
        assert not judged(self.GUARDRAIL, pair.harmless).refuses

    @pytest.mark.parametrize("text", DISGUISED)
    def test_a_disguise_does_not_help(self, text):
        assert judged(self.GUARDRAIL, text).refuses

    def test_the_pairs_cover_every_category_and_every_rule_has_a_known_one(self):
        assert {pair.category for pair in PAIRS} == {rule.verdict.category for rule in rules()} == set(CATEGORIES)

    @pytest.mark.parametrize("category", CATEGORIES)
    def test_a_category_can_be_left_out(self, category):
        rest = default([each for each in CATEGORIES if each != category])
        for pair in PAIRS:
            if pair.category == category:
                assert judged(rest, pair.harmful).category != category

    @pytest.mark.parametrize("categories", [[], ["weapon"], "hate"])
    def test_a_wrong_category_is_rejected(self, categories):
        with pytest.raises(ConfigError, match="hate, threat"):
            default(categories)

    def test_a_long_text_is_judged_to_its_end_and_where_pieces_meet(self):
        harm = PAIRS[0].harmful
        for before in (0, 4080, 4090, 4095, 4100, 50_000):
            assert judged(self.GUARDRAIL, ("word " * 12_000)[:before] + harm).refuses, before

    def test_what_stands_far_away_excuses_nothing(self):
        harm = PAIRS[0].harmful
        assert judged(self.GUARDRAIL, f"We play minecraft. {'And then we talk. ' * 20} {harm}").refuses

    def test_a_group_that_is_named_in_passing_is_not_refused(self):
        groups = ("gay", "black", "trans", "disabled", "Muslim", "Jewish", "immigrant", "Asian", "white")
        for group in groups:
            said = f"I am one of many {group} people.", f"{group} people are my friends.", f"I love {group} women."
            for text in said:
                assert not judged(self.GUARDRAIL, text).refuses, text


class TestDenylist:
    @pytest.mark.parametrize(
        "text",
        [
            "about Project Falcon.",
            "PROJECT  FALCON",
            "project\nfalcon",
            "Pr\u043eject F4lc0n",
            "pro\u200bject fal\u200dcon",
            "próject fälcon",
            "Ｐｒｏｊｅｃｔ Ｆａｌｃｏｎ",
            '{"a": "\\u0070roject falcon"}',
        ],
    )
    def test_a_phrase_is_found_however_it_is_written(self, text):
        assert judged(Denylist(["project falcon"], category="secret"), text) == Verdict.refuse("secret", "listed")

    @pytest.mark.parametrize("text", ["projects falcon", "project falconry", "subproject falcon", "falcon project", ""])
    def test_only_whole_words_count(self, text):
        assert not judged(Denylist(["project falcon"]), text).refuses

    def test_letters_with_something_between_them_are_read(self):
        for text in ("g.l.o.b.e.x", "G-L-O-B-E-X!", "a g l o b e x b"):
            assert judged(Denylist(["globex", "aglobexb"]), text).refuses

    def test_in_scripts_without_spaces_a_word_matches_anywhere(self):
        assert judged(Denylist(["机密"]), "这是机密文件").refuses

    def test_expressions_are_searched_in_lower_case(self):
        assert judged(Denylist(expressions=[r"\bsec-[0-9]{4}\b"], window=8), "see SEC-1234").refuses

    def test_a_hostile_expression_takes_no_time(self):
        assert not judged(Denylist(expressions=["(a+)+$"]), "a" * 50_000 + "!").refuses

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({}, "needs"),
            ({"words": [" "]}, "needs"),
            ({"words": [3]}, "texts"),
            ({"words": ["a" * 1_000_000]}, "the limit is 10,000"),
            ({"expressions": ["("]}, "RE2"),
            ({"expressions": [r"(?=a)"]}, "RE2"),
            ({"words": ["a"], "category": "No Code"}, "code"),
        ],
    )
    def test_an_unusable_list_is_rejected(self, arguments, words):
        with pytest.raises(ConfigError, match=words):
            Denylist(**arguments)

    def test_the_window_holds_the_longest_word_with_signs_between_its_letters(self):
        assert Denylist(["ab", "abcdef"]).window >= len("a.b.c.d.e.f")


class TestConfiguration:
    @staticmethod
    def config(tmp_path: Path, guardrails: str) -> Path:
        path = tmp_path / "hybrid.yaml"
        path.write_text(f"version: 1\nbackends:\n  edge: {{kind: onnx, model: embedded}}\nguardrails: {guardrails}\n")
        return path

    def test_a_file_makes_guardrails_in_their_order(self, tmp_path):
        (tmp_path / "words.txt").write_text("# rivals\nglobex\n\n")
        (tmp_path / "numbers.txt").write_text("sec-[0-9]{4}\n")
        listed = [
            "{kind: denylist, words_file: words.txt, expressions_file: numbers.txt, category: rival, where: output}",
            "{kind: default, categories: [hate], on_error: allow}",
            "{kind: denylist, name: more, words: [x], where: input}",
        ]
        rules = load_config(self.config(tmp_path, f"[{', '.join(listed)}]")).open_guardrails()
        assert [rule.guardrail.name for rule in rules] == ["denylist", "default", "more"]
        assert [rule.on_error for rule in rules] == ["refuse", "allow", "refuse"]
        assert [len(rule.where) for rule in rules] == [1, 2, 1]
        assert rules[0].where == {Direction.OUTPUT}
        assert judged(rules[0].guardrail, "Globex").category == "rival"
        assert judged(rules[0].guardrail, "sec-1234").refuses
        assert not judged(rules[1].guardrail, PAIRS[0].harmful).refuses

    @pytest.mark.parametrize(
        ("guardrails", "message"),
        [
            ("[{kind: defaul}]", "did you mean `default`"),
            ("[{kind: default, where: inputs}]", "did you mean `input`"),
            ("[{kind: default, categories: [weapon]}]", "did you mean `weapons`"),
            ("[{kind: encoder, model: m/}]", "labels"),
            ("[{kind: denylist, words: [a], windows: 3}]", "did you mean `window`"),
        ],
    )
    def test_what_is_wrong_is_reported_with_its_line(self, tmp_path, guardrails, message):
        with pytest.raises(ConfigError, match=message) as error:
            load_config(self.config(tmp_path, guardrails))
        assert "hybrid.yaml:4:" in str(error.value)

    def test_a_missing_list_is_an_error_at_the_start(self, tmp_path):
        with pytest.raises(ConfigError, match=r"words\.txt"):
            HybridLLM.from_config(self.config(tmp_path, "[{kind: denylist, words_file: words.txt}]"))

    def test_a_client_of_a_file_refuses(self, tmp_path):
        path = self.config(tmp_path, "[{kind: default, name: house}]")
        with HybridLLM.from_config(path) as llm, pytest.raises(ContentRefused) as refused:
            llm.generate(PAIRS[0].harmful)
        assert refused.value.guardrail == "house"


def test_normalised_text_has_no_case_marks_or_hidden_characters():
    assert normalised("ÀB\u200bC ﬁ \\u0041\\n") == "abc fi a\n"
    assert list(readings("plain words")) == ["plain words"]
    assert list(readings("b0mb")) == ["b0mb", "bomb"]
