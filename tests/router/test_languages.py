"""Words for secrets, documents and dates of birth in many languages, and layouts that name a value."""

# ruff: noqa: E501  (tables of texts)

from __future__ import annotations

import pytest

from hybrid_llm.router.privacy.detectors import DETECTORS, find_with, prepare

SENTENCES = (
    "Mein Passwort ist {}", "Das Passwort für das Portal lautet {}.", "WLAN-Schlüssel: {}", "Kennwort: {}",
    "Mon mot de passe est {}", "Le mot de passe du portail : {}", "Mi contraseña es {}", "La contraseña del portal es {}",
    "clave de red: {}", "La mia password è {}", "parola d'ordine: {}", "A minha palavra-passe é {}", "A senha do portal é {}",
    "Mijn wachtwoord is {}", "Het wachtwoord voor het portaal is {}", "paswoord: {}", "Moje hasło to {}",
    "Hasło do portalu: {}", "Moje hasło do portalu to {}", "Mitt lösenord är {}", "Lösenordet till portalen är {}",
    "Min adgangskode er {}", "Adgangskoden til portalen er {}", "Passordet mitt er {}", "Passordet til portalen er {}",
    "Salasanani on {}", "Portaalin salasana on {}", "Moje heslo je {}", "Heslo k portálu: {}", "Şifrem {}", "Şifre: {}",
    "Portalın şifresi {}", "パスワードは{}です", "パスワード：{}", "我的密码是{}", "门户网站的密码是{}", "비밀번호는 {}입니다",
    "Мой пароль: {}", "Пароль от портала — {}", "Мій пароль {}", "Пароль до порталу: {}", "Parola mea este {}",
    "A jelszavam {}", "Lozinka je {}",
    "my password for the portal is {}", "the password you asked for: {} 👍", "log in with jane / {}",
    "you can log in as jane with {}", "sign in using jane and the password {}", "credentials: jane / {}", "[pass] {}",
    "[password] {}", "they mailed me a temporary password, {}, which expires tonight", "net use Z: \\\\nas\\x /user:jane {}",
    "https://x.org/login?usuario=eva&contraseña={}", "GET /login?user=eva&contrase%C3%B1a={}&x=1", "user=eva&senha={}",
    "Smtp password          {}\nCity          Lyon", "<li>new password: <b>{}</b></li>", "can you put {} as admin password",
    '<label for="f1">password</label> <input id="f1" value="{}">', "id;clé wifi\n7;{}", 'id^mot_de_passe^city\n7^{}^Graz',
    '(gdb) p user.mot_de_passe\n$1 = 0x5581c0 "{}"', 'env:\n  - "MDP={}"\n', "What password did you set at first?\nEva: {}",
)  # fmt: skip
PASSWORDS = ("Sommer22", "sun4flower", "hunter22_", "Tr0ub4dor!")

DOCUMENTS = {
    "passport": (
        "FP1234567",
        (
            "Passnummer", "Pass-Nr.", "n° de passeport", "número de pasaporte", "numero di passaporto", "passaporte",
            "paspoortnummer", "numer paszportu", "passets nummer", "pasnummer", "rejsepas", "Passin numero", "Číslo pasu",
            "Pasaport no", "útlevélszám", "putovnica", "护照", "旅券", "여권", "Паспорт", "διαβατήριο",
        ),
    ),
    "driver_license": (
        "ED1234567",
        (
            "Führerschein-Nr.", "numéro de permis", "permiso de conducir", "patente di guida", "carta de condução",
            "carteira de motorista", "rijbewijs", "prawo jazdy", "körkort", "kørekort", "førerkort", "ajokortin numero",
            "číslo řidičského průkazu", "ehliyet no", "jogosítvány", "驾照", "運転免許証", "운전면허", "водительские права",
            "посвідчення водія",
        ),
    ),
    "date_of_birth": (
        "03.10.1958",
        (
            "Geburtsdatum", "date de naissance", "fecha de nacimiento", "data di nascita", "data de nascimento",
            "geboortedatum", "data urodzenia", "född", "født", "fødselsdato", "syntynyt", "narozena", "datum narození",
            "doğum tarihi", "született", "data nașterii", "出生日期", "生年月日", "생년월일", "생일", "дата рождения",
            "дата народження", "народився",
        ),
    ),
}  # fmt: skip
LAYOUTS = (
    "{label}: {value}\n",
    "name^{label}^city\nJane^{value}^Lyon\n",
    "name~{label}~city\nJane~{value}~Lyon\n",
    "name;{label};city\n# exported in May\nJane;-;Lyon\n// page two\n(continued)\nEva;{value};Graz\n",
    "{label}: |-\n  {value}\n",
    '{{"op": "replace", "path": "/{label}", "value": "{value}"}}',
    '<label for="f1">{label}</label> <input id="f1" value="{value}">',
    "<ul><li>City: Graz</li><li>{label}: <b>{value}</b></li></ul>",
    "Agent: What is the {label} of the second person?\nEva: {value}\n",
)
PROGRAM_TEXT = (
    "entity_token_1=entity_token_1,", "    return password1, password2", "from x import (\n    Pass,\n    PassManager,\n    SliceExpr,\n)",
    "    AddedToken,\n    PaddingStrategy,\n    TruncationStrategy,\n", "NAMES = [\n    'token', 'real48',\n    'alphas8bit', 'int64x2',\n]",
    '{"password_validator": "django.contrib.auth.password_validation.Common"}', 'auth = {"secret": "app.utils.get_value"}',
    "securely hash the password, and that hash is stored. Since this\nquery modifies data, commit", "pw = Piecewise((1, Eq(x, 0)))",
    "Token: '#d0d0d0'", "**To see the current account password policy**", 'AddedToken("cccccccccdddddddd")',
    '<label>Password</label><input name="password"><input type="submit" value="Register">',
    "[PASS] test_login2\n[PASS] test_x\n", "mit Passwort anmelden",
)  # fmt: skip


def found(kind: str, text: str) -> list[str]:
    """What the detector *kind* finds in *text*."""
    only = prepare([text])[0]
    return [text[finding.start : finding.end] for finding in find_with(DETECTORS[kind], only)]


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_password_is_found_after_its_word_in_any_language(sentence):
    for password in PASSWORDS:
        assert [value for value in found("credential", sentence.format(password)) if password in value], password


@pytest.mark.parametrize("kind", DOCUMENTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_word_of_any_language_names_its_value_in_every_layout(kind, layout):
    value, labels = DOCUMENTS[kind]
    missed = [label for label in labels if value not in "".join(found(kind, layout.format(label=label, value=value)))]
    assert missed == []


@pytest.mark.parametrize("prompt", ['>>> {}\n"{}"', '(gdb) p {}\n$1 = 0x5581c0 "{}"', 'irb(main):001:0> {}\n=> "{}"'])
@pytest.mark.parametrize(
    ("kind", "name", "value"), [("us_ssn", "user.ssn", "511073750"), ("phone", "u.phoneNo", "4155550123")]
)
def test_an_expression_names_what_is_printed_for_it(prompt, kind, name, value):
    assert found(kind, prompt.format(name, value)) == [value]


@pytest.mark.parametrize("text", PROGRAM_TEXT)
def test_names_and_lists_of_program_text_are_no_secrets(text):
    assert found("credential", text) == []


def test_a_table_ends_at_text():
    text = "name,ssn,city\nJane,511-07-3750,Graz\nThat was all.\nThe rest is text.\nEva,219099999,Lyon\n"
    assert found("us_ssn", text) == ["511-07-3750"]


def test_values_in_quotes_are_named_by_what_stands_before_them():
    text = '<134>1 - - [meta a="1" usPassport="MFI198038"] updated'.replace("<134>1", "134")
    assert found("passport", text) == ["MFI198038"]
