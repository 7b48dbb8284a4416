"""Where values stand and how they are written: tables, statements, forms, headings, messages, languages, codes."""

from __future__ import annotations

import random
import string

import pytest

from hybrid_llm.core.errors import BackendUnavailable, HybridLLMError
from hybrid_llm.core.request import Location, Message, Request
from hybrid_llm.policies import Policy, parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.privacy import PrivacyGuard
from hybrid_llm.router.privacy.detectors import DETECTORS, scan
from hybrid_llm.router.signals import FixedSensors
from tests.fakes import FakeBackend

EDGE, CLOUD = Location.EDGE, Location.CLOUD


def policy(prefer: str = "cloud, edge") -> Policy:
    text = f"""\
version: 1
name: p
tags:
  value: {{allow: [edge, cloud], to_cloud: pseudonymise, detect: [{", ".join(DETECTORS)}]}}
rules: [{{prefer: [{prefer}]}}]
resilience: {{retries: 0, continue_streams: true}}
"""
    return parse_policy(text, backends={"edge": EDGE, "cloud": CLOUD})


POLICY = policy()


def sent(*turns: str, guard: PrivacyGuard | None = None, session_id: str | None = None) -> str:
    """What the cloud would read; the last turn is the user's, and those before alternate."""
    roles = ["user", "assistant"] * len(turns)
    roles = roles[: len(turns)][::-1]
    messages = tuple(Message(role=role, content=text) for role, text in zip(roles, turns, strict=True))  # type: ignore[arg-type]
    asked = (guard or PrivacyGuard()).assess(Request(messages=messages, session_id=session_id), POLICY)
    assert CLOUD in asked.allowed, asked.blocked
    return "\n".join(asked.request_for(CLOUD).visible_text())


def found(text: str, kind: str) -> list[str]:
    return [text[each.start : each.end] for each in scan(text, [DETECTORS[kind]])]


PLACES = {
    "a statement of SQL": "INSERT INTO t (id, {0}, city) VALUES (1, '{1}', 'Rome');",
    "its second row": "INSERT INTO `t` (id, {0}) VALUES (1, NULL), (now(), '{1}');",
    "the environment of a container": 'env:\n  - name: {0}\n    value: "{1}"\n',
    "a block of settings": 'variable "{0}" {{\n  type = string\n  default = "{1}"\n}}',
    "a block in a line": 'variable "{0}" {{ default = "{1}" }}',
    "a long block": 'variable "{0}" {{\n  description = "Told, by mail"\n  nullable = true\n  default  = "{1}"\n}}',
    "a call": "define('{0}', '{1}');",
    "a list of pairs": '[("id", "7"), ("{0}", "{1}")]',
    "a heading": "## {0}\n\n{1}\n",
    "a message with its time": "[10:02] agent: please confirm your {0}\n[10:03] jane: {1}\n",
    "an answer in a log": "Agent: I need the {0}.\nCustomer: ok {1}\nAgent: thanks",
    "a form in a URL": "https://x.example/a?id=7&new+{0}={1}&b=2",
    "an array": '{{"{0}": ["{1}"]}}',
    "a row that is too short": "id,{0},city,status\n1,{1}\n",
    "a row that is too long": "id,{0},city\n1,{1},Rome,open\n",
    "a header of questions": "id,{0}?,active?\n1,{1},yes\n",
    "a header of colons": "id:,{0}:,active:\n1,{1},yes\n",
    "a header with a gap": "id,,{0}\n1,,{1}\n",
    "a table in JSON": '{{"csv": "id,{0},city\\n1,{1},Rome"}}',
    "leaders": "Name ........ Jane\n{0} ........ {1}\n",
    "columns": "NAME        {0}        CITY\nJane        {1}        Rome\n",
    "attributes": '<user id="1" {0}="{1}" city="Rome"/>',
    "settings": "app.user.{0} = {1}",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("patient_id", "A0042391"),
        ("passport_no", "E12345678"),
        ("password", "hunter22"),
        ("api_key", "9f8b7c6d5e4f3a2b"),
    ],
)
def test_a_name_reaches_its_value_in_any_layout(place, name, value):
    assert value not in sent(PLACES[place].format(name, value))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("phone", "телефон: 32123456"),
        ("phone", "phone 06 1 234 5699"),
        ("passport", "паспорт AB1234567"),
        ("passport", "パスポート番号：E12345678"),
        ("passport", "Pass-Nr. C01X00T47"),
        ("driver_license", "運転免許証 12-345-678"),
        ("driver_license", 'licenciaDeConducir = "T64235789"'),
        ("driver_license", 'permisDeConduire: "T64235789"'),
        ("driver_license", "carta_de_condução=S12345678"),
        ("medical_record", "MR# 4711-22-93"),
        ("medical_record", "med rec no: H-4471922"),
        ("date_of_birth", "дата рождения: 3 октября 1958"),
        ("date_of_birth", "born 3. října 1958"),
        ("date_of_birth", "born 3 października 1958"),
        ("date_of_birth", "syntymäaika 3. lokakuuta 1958"),
        ("date_of_birth", "DOB Oct-03-1958"),
        ("us_ssn", "SSN: 511-073-750"),
        ("us_ssn", '"ss_no": "51107-3750"'),
        ("us_ssn", "taxpayer_id=511/07/3750"),
        ("credential", "API-Schlüssel: 9f8b7c6d5e4f3a2b"),
        ("credential", "clave de API: Zx81-Kq02-Lm93"),
        ("credential", "我的password是hunter22谢谢"),
        ("credential", "passwordは hunter22 です"),
        ("credential", "9f8b7c6d5e4f3a2b1c0d is my secret key"),
        ("credential", "SET PASSWORD FOR 'jane'@'localhost' = PASSWORD('hunter22');"),
        ("credential", "UPDATE users SET password = crypt('hunter22', gen_salt('bf'))"),
        ("credential", "INSERT INTO users (name, password) VALUES ('u', MD5('hunter22'))"),
        ("credential", "curl https://api.example.com/u -F 'pwd=sunshine9' -F 'id=7'"),
    ],
)
def test_words_and_notations_of_other_languages_count(kind, text):
    assert len(found(text, kind)) == 1


@pytest.mark.parametrize(
    "question",
    [
        "Введите пароль",
        "What is your 비밀번호?",
        "비밀번호를 입력하세요",
        "请输入密码",
        "パスワードを入力してください",
        "Bitte Passwort eingeben:",
        "Ingrese su contraseña",
        "Podaj hasło",
    ],
)
def test_a_question_for_a_secret_counts_in_any_script(question):
    assert "hunter22" not in sent(question, "hunter22")


@pytest.mark.parametrize("remark", ["Пароль изменён", "密码已更新", "Password updated"])
def test_a_remark_on_a_secret_asks_for_none(remark):
    assert sent(remark, "hunter22") == f"{remark}\nhunter22"


@pytest.mark.parametrize(
    "text",
    [
        '__all__ = ["Blip2Tokenizer"]',
        'scope["route"] = original_route',
        "password    string",
        "## Password\n\nRequired for all accounts",
        "y = a+b&c",
        "if x=a+b&y=c+d",
        "修改password字段user1后",
        "INSERT INTO t (name, password) VALUES (?, ?), (:name, :password), (now(), NULL), ('u', '')",
        "password = crypt(form.value)",
        "a secret key is my favourite",
        "<td><b>12</b><b>34</b></td>",
        "1<b>2</b>3",
        'variable "password" {\n  type = string\n  description = "The password of the database."\n}',
        'variable "password_length" {\n  type = number\n  default = 24\n}',
        "<b>Password</b>hint",
        "12:30:45 00:11:22",
        "sum = 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70",
    ],
)
def test_layouts_alone_find_nothing(text):
    assert sent(text) == text


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("phone=415+555+0123&b=2", "0123"),
        ("POST /x name=Jane+Doe&phone=415+555+0123", "0123"),
        ("https://x.example/a?ssn=511+07+3750", "3750"),
        ("a=1&passport+number=E12345678&b=2", "E12345678"),
        ("q=1&email=jane+tag%40example.org&b=2", "jane"),
        ("SSN 511-<b>07</b>-3750", "511"),
        ("SSN 511-0<wbr>7-3750", "511"),
        ('call 415-<span class="x">555</span>-0123', "415"),
        ("mail jane@<b>example</b>.org", "jane"),
        ("card 4111<!-- x -->1111 1111 1111", "4111"),
        ("card 4111 <b>1111</b> 1111 1111", "4111"),
        ("SSN 511-07-3750</b><b>12", "3750"),
    ],
)
def test_a_form_and_its_looks_hide_no_value(text, part):
    assert part not in sent(text)


SPELLINGS = {
    "SSN 511-07-3750": [
        "511-<b>07</b>-3750",
        "511-0<wbr>7-3750",
        "35 31 31 2d 30 37 2d 33 37 35 30",
        "0x35, 0x31, 0x31, 0x2d, 0x30, 0x37, 0x2d, 0x33, 0x37, 0x35, 0x30",
        "35:31:31:2d:30:37:2d:33:37:35:30",
        '"511-07" + \\\n        "-3750"',
        "q=511+07+3750&b=1",
    ],
    "my MRN: 4711-22-93": ["4711-22-93", "47112293", "4711 22 93", "record 4711/22/93"],
    "card 4111 1111 1111 1111": ["4111=201111=201111=201111", "4111<!-- x -->1111 1111 1111"],
    "mail Jane.Doe@Example.org": ["jane-doe-example-org", "janedoeexampleorg", "jane_doe_example_org"],
}


@pytest.mark.parametrize(
    ("first", "later"), [(first, each) for first, spellings in SPELLINGS.items() for each in spellings]
)
def test_what_one_turn_found_does_not_leave_in_a_later_one(first, later):
    guard = PrivacyGuard()
    sent(first, guard=guard, session_id="s")
    asked = guard.assess(Request(messages=(Message(role="user", content=f"see {later} ."),), session_id="s"), POLICY)
    assert CLOUD not in asked.allowed or later not in asked.request_for(CLOUD).messages[0].content


@pytest.mark.parametrize(
    "beginning",
    [
        "=4A=61=6E=65=2E=44=6",
        "jane=2E",
        "%u004a%u0061%u006e%u00",
        "\\x{4a}\\x{61}\\x{6e}\\x{6",
        "jane.doe%254",
        "Jane.<wb",
        "Jane.<b>Do",
        "jane-doe-exam",
        '"Jane." + "Do',
        "Jane.\n        Doe",
    ],
)
def test_an_answer_that_breaks_off_within_a_code_stays(beginning):
    edge = FakeBackend("edge", EDGE, [f"Mail to {beginning}", BackendUnavailable("gone", backend="edge")])
    cloud = FakeBackend("cloud", CLOUD)
    with HybridLLM([edge, cloud], policy("edge, cloud"), sensors=FixedSensors()) as llm, pytest.raises(HybridLLMError):
        llm.generate("write to Jane.Doe@Example.org")
    assert cloud.requests == []


def test_a_pseudonym_names_nothing_that_stands_beside_it():
    """`SECRET_6Z5T6` begins with a word for secrets, and `PHONE_...` with one for numbers."""
    for seed in range(200):
        random.seed(seed)
        password = "".join(random.choices(string.ascii_letters, k=6)) + "7!"
        text = f'INFO login user=jane root_pw="{password}" order=88 phone +1 415 555 0123, total 88123456'
        assert "order=88" in sent(text)


def test_a_number_is_known_without_its_label():
    guard = PrivacyGuard()
    sent("MRN-00482913 was admitted", guard=guard, session_id="s")
    assert "00482913" not in sent("what about 00482913", guard=guard, session_id="s")
