"""Secrets beside their word are found; what only looks alike, in program text and prose about secrets, is left."""

from __future__ import annotations

import base64
import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.router.privacy.detectors import DETECTORS

SECRETS = (
    "password: hunter2",
    "my password is sunshine",
    "pw: Summer2024!",
    "<password>hunter2</password>",
    "<password>sun flower</password>",
    "CREATE USER bob IDENTIFIED BY 'tiger';",
    "ALTER USER x IDENTIFIED BY hunter2;",
    "CREATE ROLE x WITH LOGIN PASSWORD 'sunshine';",
    "api key 8fk2kd92kfl",
    "Authorization: Zoho-oauthtoken 1000.8cb99d4f11.ab12cd",
    "https://x.org/cb?code=1000.dd7e47321d48b8a7e312e3d6eb1a9bb8.b6c07a3ef&x=1",
    "mysql -uroot -phunter2 db",
    "hunter2 is my password",
    "login: bob / hunter22",
    "log in with bob / hunter22",
    "密码是abc12345",
    "PIN code: 482913.",
    'DB_PASSWORD="correct!horse"',
    "passphrase: correct horse battery staple",
    'my passphrase is "correct horse battery staple"',
    "Passwort: geheim12",
    "Mein Passwort ist Sonnenschein.",
    "contraseña: gatito99",
    "mi contraseña es gatito99",
    "mot de passe : soleil42",
    "le mot de passe est soleil42",
    "senha: futebol10",
    "wachtwoord: fiets123",
    "пароль: qwerty12",
    "x-api-key: abcd1234efgh",
    "Cookie: sessionid=8f7d6a5b4c3d2e1f0a9b; theme=dark",
    "curl -u bob:hunter2 https://x.org",
    "sshpass -p hunter2 ssh x",
    "--password hunter2",
    "--password=sunshine",
    '"password": "hunter2"',
    "'password' => 'hunter2'",
    '{"key": "password", "value": "hunter2"}',
    '<add key="Password" value="Winter!!" />',
    "Server=x;Database=y;User Id=sa;Password=Yukon900;",
    "AccountName=x;AccountKey=abcd1234EFGH5678ijkl9012MNOP==;",
    "PGPASSWORD=hunter2 psql",
    "export SECRET_KEY=k8jf93jf03jf",
    "the wifi password is sunflower",
    "password for the admin account is hunter2",
    "reset your password to Zx9!kk",
    "password changed from hunter2 to hunter3",
    "the passwords are hunter2 and swordfish9",
    "username: bob, password: sunshine",
    "user bob pass hunter2",
    "your OTP is 482913",
    "verification code: 123 456",
    "2FA code 482913",
    "my pin is 4821",
    "CVV: 123",
    "secret: s3cr3t!",
    "token: abcd1234efgh5678",
    "access_token=ya29abcdefgh12345",
    "Token token=abcd1234efgh5678",
    "Authorization: ApiKey abcd1234efgh5678",
    "password (hunter2)",
    "password `hunter2`",
    "**Password:** hunter2",
    "Password | hunter2 |",
    "password – hunter2",
    "pwd=hunter2",
    "passwd hunter2",
    '{"password":"sunshine"}',
    'password = "sunshine"',
    "bob:hunter2!x@db.example.net",
    "machine h login u password p4ssw0rd",
    "requirepass foobared1",
    "password: P@$$w0rd",
    "password: $ecret9!",
    'password: "correct horse battery staple"',
    "Password: Tr0ub4dor&3",
    "pass: qwe123",
    "your new password will be Abc!1234",
    "use hunter2 as the password",
    "credentials: admin:admin123",
    "login admin/admin123",
    "echo hunter2 | sudo -S ls",
    'setPassword("hunter2")',
    'const password: string = "hunter2";',
    'String password = "hunter2";',
    "my password: dragon",
    "password is: dragon",
    'api_key = "sk8f9d8f7g6h5"',
    "client secret is 8f9d8f7g6h5j",
    "the password is hunter2.",
    "“password”: “hunter2”",
    "Password: «hunter2»",
    "ansible_ssh_pass=hunter2",
    "spring.datasource.password=hunter2",
    "mail.password = hunter2",
    "seed phrase: apple tree house moon river stone cloud grass wolf light north bread",
)

LEFT = (
    "input[type=password]:h4ver, a",
    "token = uuid.uuid4()",
    'tokenizers = [\n    "tokenizers>=0.22.0",\n    "tqdm>=4.27",\n    "urllib3<2.0.0",\n]',
    "eos_token: 128009",
    "spin: 1500",
    "tests pass: 120034",
    "hf_...",
    "export HF_TOKEN=hf_...",
    "sk-xxxxxxxx",
    "sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "password = forms.CharField(max_length=12)",
    "password: required",
    'password="password"',
    "password = password",
    "self.password = password",
    "password=self.password2",
    '"password": "Enter your password"',
    '"passwordHint": "At least 8 characters"',
    "password: str = None",
    "token: Optional[str] = None",
    'password = os.environ["PASSWORD"]',
    "password = getpass.getpass()",
    'password = config.get("password")',
    "if password is None:",
    "the password is invalid",
    "password must be 8 characters",
    "password: ${DB_PASSWORD}",
    "password: {{ vault_password }}",
    "password: <your password>",
    "password=%s",
    "max_tokens: 4096",
    '"bos_token_id": 128000',
    "token_type_ids = x",
    "PASSWORD VARCHAR(255) NOT NULL",
    "password varchar(64) default null",
    'password_hash = "5f4dcc3b5aa765d61d8327deb882cf99"',
    "the password was sha256-hashed",
    "secret_key_base: changeme",
    "pass 12 of 15",
    "compass: 120034",
    "bypass = x12345",
    "token2 = token1",
    "password: string",
    '"type": "password",',
    '<input type="password" name="password" placeholder="Password">',
    'password: "********"',
    "passwords match",
    "tokens: 128000",
    'api_key="YOUR_API_KEY"',
    "api key required",
    "session_id = str(uuid4())",
    "Authorization: Bearer <token>",
    'Authorization: f"Bearer {token}"',
    'headers = {"Authorization": f"Bearer {self.token}"}',
    'password := r.FormValue("password")',
    "const token = req.headers.authorization",
    'private_key = load_pem("key.pem")',
    "access_key: !Ref AccessKey",
    "--password PASSWORD",
    "-p 8080:80",
    "docker run -p 8080:80 x",
    "secret: false",
    "PIN 13 is high",
    "integrity sha512-abcd1234efgh5678ijkl==",
    'image_token = "<image1>"',
    'pad_token="[PAD]"',
    "my password is safe",
    "the password is required",
    'tokenizer = AutoTokenizer.from_pretrained("x1")',
    "def login(user, password):",
)
MAIL = "jane.doe@example.org"


@pytest.mark.parametrize("text", SECRETS)
def test_a_secret_beside_its_word_is_found(text):
    assert list(DETECTORS["credential"].find(text))


@pytest.mark.parametrize("text", LEFT)
def test_what_is_no_secret_is_left(text):
    assert list(DETECTORS["credential"].find(f"x\n{text}")) == []


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


ENCODED = (
    MAIL.replace("@", "\\u{40}"),
    MAIL.replace("@", "\\100"),
    MAIL.replace("@", "\\N{COMMERCIAL AT}"),
    MAIL.replace("@", "\\U00000040"),
    MAIL.replace("@", "&#64"),
    MAIL.replace("@", "\\40 "),
    "jane\\_doe@example\\.org",
    MAIL.replace("@", "=40"),
    "jane.doe@exam=\nple.org",
    "jane.doe<![CDATA[@]]>example.org",
    b64(codecs.BOM_UTF16_LE + MAIL.encode("utf-16-le")),
    b64(codecs.BOM_UTF16_LE + ("我们" * 12 + " " + MAIL).encode("utf-16-le")),
    b64(MAIL.encode("utf-16-be")),
    b64(b"jo@ex.org"),
    b64(b64(MAIL.encode()).encode()),
)


@pytest.mark.parametrize("shown", ENCODED)
def test_an_encoded_value_is_found_whole(shown):
    findings = list(DETECTORS["email"].find(f"see {shown} ok"))
    assert any(found.start <= 4 and found.end >= 4 + len(shown) for found in findings)


@pytest.mark.parametrize("before", ["https://x.io/u/", "data_", "a+"])
def test_base64_behind_other_text_is_found(before):
    assert list(DETECTORS["email"].find(f"see {before}{b64(MAIL.encode())} ok"))


@pytest.mark.parametrize(
    "unseen",
    [
        "".join(chr(0xE0000 + ord(char)) for char in MAIL),
        "".join(chr(0xE00F0 + byte) for byte in MAIL.encode()),
        "\u200b\u200c" * 8,
    ],
)
@pytest.mark.parametrize("kind", ["email", "credential", "us_ssn"])
def test_every_detector_reports_what_nobody_sees(kind, unseen):
    assert list(DETECTORS[kind].find(f"hi {unseen}"))


@pytest.mark.parametrize("end", ["\u202c", "", "\u202d now"])
@pytest.mark.parametrize(
    ("kind", "before", "value"),
    [("email", "hi ", MAIL), ("us_ssn", "my ssn is ", "511-07-3750"), ("credential", "password: ", "hunter22")],
)
def test_a_reversed_text_is_read_as_it_is_shown_and_as_it_is_written(kind, before, value, end):
    for written in (value, value[::-1]):
        text = f"{before}\u202e{written}{end}"
        assert any(found.start <= len(before) + 1 < found.end for found in DETECTORS[kind].find(text))


def test_a_half_reversed_value_is_read_as_it_is_shown():
    assert list(DETECTORS["us_ssn"].find("my ssn is 511-\u202e0573-70"))


@pytest.mark.parametrize("mark", ["\u202e", "\\u202e"])
def test_a_value_that_only_the_reversed_text_shows_is_found(mark):
    assert list(DETECTORS["iban"].find(f'{{"iban": "{mark}23456789654321TSEW28BG"}}'))


def test_a_reversed_text_without_a_value_is_no_find():
    assert not [kind for kind in DETECTORS if list(DETECTORS[kind].find("http://x.org/\u202e/oof/\u202d/bar"))]


def test_a_flag_hides_nothing():
    flag = "\U0001f3f4" + "".join(chr(0xE0000 + ord(char)) for char in "gbsct") + "\U000e007f"
    assert list(DETECTORS["email"].find(f"from {flag} with love \u2764\ufe0f")) == []


SECRETS_IN_WORDS = (
    "its {} (Kennwort)",
    "it's {} (my password)",
    "use {} as the password",
    "Nimm {} als Passwort",
    "usa {} como contraseña",
    "utilise {} comme mot de passe",
    "{} was the password",
    '"{}" <- password',
    'is "{}" a good password?',
    "the password's {}, don't tell anyone",
    "I've reset the admin password. It's {} now.",
    "What's the password? It's {}",
    "My old password, {}, no longer works.",
    "my password, which is {}, is old",
    "Password ........ {}",
    "[Password] {}",
    "Password    {}",
    "Username\njane\nPassword\n{}\nURL\nhttps://x.org",
    "login: jane / {}",
    "creds: jane / {}",
    "Zugangsdaten: jane / {}",
    "WLAN-Schlüssel: {}",
    "Ich habe das Passwort auf {} geändert",
    "mon mot de passe, c'est {}",
    "le mot de passe du wifi est {}",
    "cambié la contraseña a {}",
    "código de acceso: {}",
    "codice di accesso: {}",
    "toegangscode: {}",
    "ww: {}",
    "şifrem {}",
    "Пароль: {}",
    "我的密码是{}。",
    "パスワードは{}です",
    "비밀번호는 {}입니다",
    "姓名,密码,城市\n张三,{},上海",
    "name\tdb_pass\tcity\nJoe\t\tGraz\nJane\t{}\tGraz",
    "user  password  city\njane  {}  Graz",
    'name,secret,city\nJane,"{}",Graz',
    "env:\n  - name: DB_PASSWORD\n    value: {}\n",
    "- key: db.password\n  type: string\n  value: {}\n",
    "passphrase: |\n  {}\n",
    "password: !vault {}\n",
    '{{"passwords": ["{}", "x"]}}',
    '{{"password": {{"value": "{}"}}}}',
    '{{"columns": ["id", "pwd"], "rows": [[1, "a]b["], [2, "{}"]]}}',
    "user.rootPassword={}",
    "<li><b>Password:</b> {}</li>",
    "<label>Password</label><span>{}</span>",
    '<setting name="Password"><value>{}</value></setting>',
    '<input type="password" value="{}">',
    "SET PASSWORD FOR jane = '{}';",
)
"""How people write a password down; in braces the password."""
PASSWORDS = ("Winter1987!", "m@rbl3587", "4SIYGED5PO")


@pytest.mark.parametrize("text", SECRETS_IN_WORDS)
@pytest.mark.parametrize("password", PASSWORDS)
def test_a_password_is_found_whole_however_it_is_told(text, password):
    shown = text.format(password)
    start = shown.index(password)
    found = list(DETECTORS["credential"].find(shown))
    assert any(each.start <= start and each.end >= start + len(password) for each in found)


@pytest.mark.parametrize(
    "text",
    [
        "password: L6i.Ia<T[L&my:|pC^+Iew5 ok?",
        "<password>Win<ter87!</password>",
        "user: ops / pass: tP9(%;zKu=uRhy3};?&zI",
        "GET /v1/find?page=2&pwd=6IoCp9%2BK%2C%3BPl%29&sort=asc HTTP/1.1",
        "Id: 3663\nKennwort\t: s0Ch*>{knw.\nCity\t: Leeds",
        '{"dbPassword": "8kMpW0m6%U<~4XVAuR{{2Y"}',
        '{"columns": ["id", "pass"], "rows": [["1", ""], ["2", "P6k9Rz|c)^dFL~sLS[[:"]]}',
    ],
)
def test_marks_in_a_password_do_not_end_it(text):
    found = [text[each.start : each.end] for each in DETECTORS["credential"].find(text)]
    assert found
    assert any(
        value in found[0]
        for value in (
            "L6i.Ia<T[L&my:|pC^+Iew5",
            "Win<ter87!",
            "tP9(%;zKu=uRhy3};?&zI",
            "6IoCp9%2BK%2C%3BPl%29",
            "s0Ch*>{knw.",
            "8kMpW0m6%U<~4XVAuR{{2Y",
            "P6k9Rz|c)^dFL~sLS[[:",
        )
    )


def test_the_bracket_around_a_pair_is_no_part_of_it():
    text = "(password: hunter2) and connect(password=hunter3)"
    assert [text[each.start : each.end] for each in DETECTORS["credential"].find(text)] == ["hunter2", "hunter3"]


CODE = (
    "k_embed = torch.cat([k_rot, k_pass], dim=-1)\nq = torch.cat([q_rot, k_pass], dim=-1)",
    "token = 1*tchar",
    "await ws.close(code=WSCloseCode.GOING_AWAY)",
    "codecs.encode(password, 'rot13')",
    "from transformers import AutoTokenizer, HunYuanMoEV1ForCausalLM",
    "self.password: str = unquote(u.password)",
    '"next_tokens": next_tokens.view(-1),',
    'storage_key = "cond_frame_outputs"',
    "nn.init.normal_(module.cls_token, std=0.02)",
    "[What are token type IDs?](x) The authors of VisualBERT set",
    "from .oauth2 import OAuth2PasswordBearer as OAuth2PasswordBearer",
    "any type that can be identified by reference.",
    "$ ./runtests.py basic --parallel=1",
)


@pytest.mark.parametrize("text", CODE)
def test_program_text_and_prose_about_it_hold_no_secret(text):
    assert list(DETECTORS["credential"].find(f"x\n{text}")) == []


def _hexadecimal(text: str) -> str:
    return text.encode().hex()


def _percent(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


def _escaped(text: str) -> str:
    return "".join(f"\\u{ord(char):04x}" for char in text)


NESTED = st.lists(st.sampled_from([lambda text: b64(text.encode()), _hexadecimal, _percent, _escaped]), max_size=3)


@given(NESTED, st.sampled_from([MAIL, "4111 1111 1111 1111", "DE89370400440532013000"]))
def test_a_value_in_up_to_three_layers_of_encoding_is_covered_whole(codes, value):
    shown = value
    for code in codes:
        shown = code(shown)
    text = f"see {shown} ok"
    kind = {"4": "payment_card", "D": "iban"}.get(value[0], "email")
    assert any(each.start <= 4 and each.end >= 4 + len(shown) for each in DETECTORS[kind].find(text))
