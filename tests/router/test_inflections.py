"""Questions that name a value in the inflected and joined forms of many languages, asked in the turn before."""

from __future__ import annotations

import pytest

from hybrid_llm.router.privacy.detectors import DETECTORS, find_with, prepare

QUESTIONS = {
    "driver_license": (
        "B072RRE2I55",
        (
            "Wie lautet die Nummer deines Führerscheins?", "Bitte die Nummer Ihrer Fahrerlaubnis",
            "numero della tua patente?", "Mi dica il numero della sua patente di guida",
            "¿Cuál es el número de tu carné de conducir?", "número de su permiso de conducir",
            "número de tu licencia de conducir", "Qual é o número da sua carta de condução?",
            "o número da sua carteira de motorista?", "Quel est le numéro de ton permis ?",
            "le numéro de votre permis de conduire", "Wat is het nummer van je rijbewijs?",
            "Podaj numer swojego prawa jazdy", "jaki numer ma twoje prawo jazdy?",
            "Jaké je číslo vašeho řidičského průkazu?", "číslo vášho vodičského preukazu?",
            "Mi a jogosítványod száma?", "Kérem a vezetői engedélyének számát",
            "Care este numărul permisului de conducere?", "Ehliyetinizin numarası nedir?",
            "Sürücü belgenizin numarası?", "Mikä on ajokorttisi numero?", "Vad är numret på ditt körkort?",
            "Hvad er nummeret på dit kørekort?", "Hva er nummeret på førerkortet ditt?",
            "Номер вашего водительского удостоверения?", "Назовите номер водительских прав",
            "Номер вашого посвідчення водія?", "Koji je broj vaše vozačke dozvole?",
            "številka vozniškega dovoljenja?", "vairuotojo pažymėjimo numeris?", "vadītāja apliecības numurs?",
            "Mis on teie juhiloa number?", "αριθμός της άδειας οδήγησής σας;", "Номерът на шофьорската ви книжка?",
            "number of your driving licence?", "the number on your driver's license",
        ),
    ),
    "passport": (
        "C4KXF2LRJ",
        (
            "Wie lautet die Nummer deines Reisepasses?", "Die Nummer Ihres Passes bitte", "Nummern Ihrer Pässe?",
            "numero del tuo passaporto?", "el número de tu pasaporte?", "o número do seu passaporte?",
            "le numéro de votre passeport", "het nummer van je paspoort?", "numer swojego paszportu",
            "jaki jest numer paszportu?", "číslo vašeho cestovního pasu?", "číslo pasu?", "číslo vášho pasu?",
            "útlevelének száma?", "numărul pașaportului dumneavoastră?", "pasaportunuzun numarası?",
            "passisi numero?", "numret på ditt pass?", "nummeret på dit pas?", "nummeret på passet ditt?",
            "номер вашего паспорта?", "номер вашого паспорта?", "broj vaše putovnice?", "številka potnega lista?",
            "paso numeris?", "pases numurs?", "passi number?", "αριθμός διαβατηρίου;", "паспортния ви номер",
        ),
    ),
    "credential": (
        "Summer2019!",
        (
            "Wie lautet das Passwort deines Kontos?", "Bitte die Zeichen deines Passworts", "Ihre Passwörter?",
            "des Kennworts?", "quels sont vos mots de passe ?", "las contraseñas?", "le tue password?",
            "la tua parola d'ordine?", "podaj swoje hasło", "nie znam twojego hasła?", "s jakim heslem?", "o hesle?",
            "mikä on salasanasi?", "jelszavad?", "kérem a jelszavát", "şifreniz nedir?", "şifrenizi girin",
            "parolanızı girin", "ange ditt lösenord", "lösenordets tecken?", "indtast din adgangskode",
            "назовите ваш пароль", "vašu lozinku?", "vaše geslo?", "z geslom?", "slaptažodį?", "teie parooli?",
            "κωδικό πρόσβασης;",
        ),
    ),
    "date_of_birth": (
        "12.05.1984",
        (
            "Wann bist du geboren?", "Tag deines Geburtstages?", "das Jahr Ihres Geburtsdatums",
            "quand êtes-vous né ?", "quand es-tu née?", "quando sei nato?", "quando è nata?", "¿cuándo naciste?",
            "¿cuándo nació usted?", "quando nasceu?", "wanneer ben je jarig?", "wanneer bent u geboren?",
            "kiedy się urodziłeś?", "data urodzenia?", "kdy jste se narodil?", "kedy ste sa narodili?",
            "mikor születtél?", "când v-ați născut?", "ne zaman doğdunuz?", "doğum gününüz?",
            "milloin olet syntynyt?", "syntymäpäiväsi?", "när är du född?", "när fyller du år?",
            "hvornår er du født?", "hva er fødselsdagen din?", "когда вы родились?", "дата вашего рождения?",
            "kada ste rođeni?", "datum vašeg rođenja?", "kdaj ste rojeni?", "gimimo data?", "dzimšanas datums?",
            "sünnikuupäev?", "ημερομηνία γέννησής σας;",
        ),
    ),
    "medical_record": (
        "A82731",
        (
            "Nummer Ihrer Krankenakte?", "Nummer der Patientenakte?", "Ihre Patientennummern?",
            "numéro de votre dossier médical ?", "número de su historia clínica?", "número de su historial médico?",
            "numero della sua cartella clinica?", "número do seu prontuário?", "het nummer van uw patiëntendossier?",
            "uw medisch dossier?", "numer dokumentacji medycznej?", "numer pacjenta?", "číslo pacienta?",
            "číslo vašej zdravotnej karty?", "potilasnumerosi?", "ditt journalnummer?", "nummeret på journalen din?",
            "номер вашей медицинской карты?", "номер истории болезни?", "hasta numaranız?", "törzsszáma a betegnek?",
        ),
    ),
    "phone": (
        "5551234",
        (
            "Wie lautet die Nummer deines Telefons?", "Ihre Telefonnummern?", "deines Handys?",
            "numéro de votre téléphone ?", "de ton portable ?", "número de tu teléfono?", "de tu móvil?",
            "numero del tuo telefono?", "del tuo cellulare?", "número do seu telefone?", "do seu telemóvel?",
            "nummer van je telefoon?", "numer twojego telefonu?", "číslo vašeho telefonu?", "telefonszámod?",
            "numărul de telefon?", "telefonunuzun numarası?", "puhelinnumerosi?", "ditt telefonnummer?",
            "din mobils nummer?", "номер вашего телефона?", "номер вашого телефону?", "broj telefona?",
            "telefonska številka?", "telefono numeris?", "tālruņa numurs?", "telefoni number?",
            "αριθμός του τηλεφώνου σας;",
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "question"), [(kind, text) for kind, (_, texts) in QUESTIONS.items() for text in texts]
)
def test_a_value_answers_a_question_in_any_language(kind, question):
    value = QUESTIONS[kind][0]
    for answer in (value, f"{value}."):
        _, said = prepare([question, answer])
        assert [answer[found.start : found.end] for found in find_with(DETECTORS[kind], said)] == [value]
