"""Sealed mode without a network: published vectors, keys, replays, and every damage to a stream."""

import json
from datetime import UTC, datetime, timedelta
from hashlib import shake_256
from pathlib import Path

import pytest
from cryptography.hazmat.bindings._rust import openssl
from cryptography.hazmat.primitives.hpke import AEAD, KDF, Suite
from hypothesis import assume, given
from hypothesis import strategies as st

from hybrid_llm.backends.wire.sealing.keys import KeyRing, SealKey, read_private, read_public, write_key
from hybrid_llm.backends.wire.sealing.messages import open_request, padded, seal_request, unpadded
from hybrid_llm.backends.wire.sealing.pins import NodeKeys, Pins, SealedSpec
from hybrid_llm.backends.wire.sealing.replay import ReplayWindow
from hybrid_llm.backends.wire.sealing.suites import HYBRID, SUITES, X25519
from hybrid_llm.core.errors import BackendOverloaded, BackendUnavailable, ConfigError, DecryptionFailed
from hybrid_llm.protos import hybrid_pb2 as pb

VECTORS = json.loads(Path(__file__).with_name("hpke_vectors.json").read_text())
AEADS = {1: AEAD.AES_128_GCM, 2: AEAD.AES_256_GCM, 3: AEAD.CHACHA20_POLY1305}
LATER = datetime.now(UTC) + timedelta(days=1)
NOW_MS = int(datetime.now(UTC).timestamp() * 1000)
X25519_KEY, HYBRID_KEY = SealKey.make(X25519, LATER), SealKey.make(HYBRID, LATER)
STRANGER = SealKey.make(X25519, LATER)


def request(text="the secret prompt"):
    return pb.GenerateRequest(messages=[pb.Message(role=pb.ROLE_USER, content=text)], max_tokens=7)


def private_of(name):
    """The vector's private key in our form; X-Wing expands a seed of 32 bytes."""
    data = bytes.fromhex(VECTORS[name]["skRm"])
    return data if name == X25519.name else shake_256(data).digest(96)


@pytest.mark.parametrize("name", SUITES)
def test_published_vectors_are_opened_with_our_form_of_the_keys(name):
    vector, suite = VECTORS[name], SUITES[name]
    assert suite.public_of(private_of(name)).hex() == vector["pkRm"]
    first = vector["encryptions"][0]
    hpke = Suite(suite.kem, KDF.HKDF_SHA256, AEADS[vector["aead_id"]])
    sealed = bytes.fromhex(vector["enc"] + first["ct"])
    key, parts = suite._private(private_of(name)), [bytes.fromhex(vector["info"]), bytes.fromhex(first["aad"])]
    assert openssl.hpke._decrypt_with_aad(hpke, sealed, key, *parts).hex() == first["pt"]
    assert len(bytes.fromhex(vector["enc"])) == suite.encapsulation_bytes


@pytest.mark.parametrize("key", [X25519_KEY, HYBRID_KEY], ids=lambda key: key.config.suite.name)
@given(data=st.binary(max_size=2000))
def test_what_is_sealed_is_opened_and_shows_no_byte_of_the_request(key, data):
    message = request("needle" + data.hex())
    wire, _ = seal_request(message.SerializeToString(), key.config, issued_ms=NOW_MS)
    assert b"needle" not in wire
    assert open_request(pb.GenerateRequest.FromString(wire), key).message == message


def test_two_requests_of_similar_length_have_the_same_size():
    sizes = {len(seal_request(b"x" * n, X25519_KEY.config, issued_ms=NOW_MS)[0]) for n in range(100, 150)}
    assert len(sizes) == 1


@given(data=st.binary(), block=st.sampled_from([1, 16, 64, 256]))
def test_padding_is_undone_and_fills_a_block(data, block):
    full = padded(data, block)
    assert unpadded(full) == data
    assert len(full) % block == 0


@pytest.mark.parametrize("data", [b"", b"\0\0", b"x", b"x\0"])
def test_what_is_not_padded_is_refused(data):
    with pytest.raises(DecryptionFailed):
        unpadded(data)


def outer_message():
    wire, _ = seal_request(request().SerializeToString(), X25519_KEY.config, issued_ms=NOW_MS)
    return pb.GenerateRequest.FromString(wire)


@given(data=st.data())
def test_a_request_with_any_bit_flipped_is_refused(data):
    outer = outer_message()
    sealed = bytearray(outer.sealed)
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    outer.sealed = bytes(sealed)
    with pytest.raises(DecryptionFailed):
        open_request(outer, X25519_KEY)


@pytest.mark.parametrize(
    "change",
    [
        {"key_id": b"\0" * 8}, {"max_tokens": 4096}, {"tags": ["public"]}, {"tenant": "another"}, {"sealed": b""},
        {"sealed": b"x" * 10}, {"session_id": "s"},
    ],
)  # fmt: skip
def test_nothing_outside_the_ciphertext_can_be_changed_or_added(change):
    outer = outer_message()
    for name, value in change.items():
        getattr(outer, name).extend(value) if name == "tags" else setattr(outer, name, value)
    with pytest.raises(DecryptionFailed):
        open_request(outer, X25519_KEY)


def test_a_request_cut_short_or_for_another_key_is_refused():
    outer = outer_message()
    with pytest.raises(DecryptionFailed):
        open_request(outer, STRANGER)
    with pytest.raises(DecryptionFailed):
        open_request(pb.GenerateRequest(key_id=outer.key_id, sealed=outer.sealed[:-1]), X25519_KEY)


@given(key=st.sampled_from([X25519_KEY, HYBRID_KEY]), sealed=st.binary(max_size=1300), key_id=st.binary(max_size=20))
def test_any_bytes_in_place_of_a_sealed_request_are_refused_by_type(key, sealed, key_id):
    with pytest.raises(DecryptionFailed):
        open_request(pb.GenerateRequest(key_id=key_id, sealed=sealed), key)


@pytest.mark.parametrize(
    "inner",
    [b"\xff", pb.SealedRequest(request=b"\xff", answer_secret=bytes(32)).SerializeToString(),
     pb.SealedRequest(answer_secret=bytes(31)).SerializeToString(),
     pb.SealedRequest(answer_secret=bytes(32), issued_ms=2**62).SerializeToString()],
)  # fmt: skip
def test_a_sealed_request_that_holds_nonsense_is_refused_by_type(inner):
    outer = pb.GenerateRequest(key_id=X25519_KEY.config.key_id)
    info = b"hybrid-llm sealed request 1\0" + outer.SerializeToString()
    outer.sealed = X25519.seal(X25519_KEY.config.public, padded(inner, 256), info)
    with pytest.raises(DecryptionFailed):
        open_request(outer, X25519_KEY)


def exchange(count=5):
    """What opens an answer of *count* chunks, the chunks, and the messages that carry them."""
    wire, opener = seal_request(request().SerializeToString(), X25519_KEY.config, issued_ms=NOW_MS)
    seal = open_request(pb.GenerateRequest.FromString(wire), X25519_KEY).sealer()
    plain = [pb.GenerateChunk(text=f"piece {n}", tokens=1) for n in range(count - 1)]
    plain.append(pb.GenerateChunk(finish_reason=pb.FINISH_REASON_STOP))
    return opener, plain, [seal(chunk) for chunk in plain]


def test_an_answer_is_opened_in_order_and_is_complete():
    opener, plain, sent = exchange()
    assert [opener(message) for message in sent] == plain
    opener.finish()
    assert not any(b"piece" in message.SerializeToString() for message in sent)


def test_a_chunk_that_the_node_itself_seals_after_the_last_one_is_refused():
    wire, opener = seal_request(request().SerializeToString(), X25519_KEY.config, issued_ms=NOW_MS)
    seal = open_request(pb.GenerateRequest.FromString(wire), X25519_KEY).sealer()
    opener(seal(pb.GenerateChunk(finish_reason=pb.FINISH_REASON_STOP)))
    with pytest.raises(DecryptionFailed):
        opener(seal(pb.GenerateChunk(text="more")))


def test_chunks_of_tokens_of_any_usual_length_have_the_same_size():
    _, _, sent = exchange()
    assert len({len(message.sealed) for message in sent}) == 1


def changed(message, **values):
    copy = pb.GenerateChunk()
    copy.CopyFrom(message)
    for name, value in values.items():
        setattr(copy, name, value)
    return copy


def flipped(message, draw):
    data = bytearray(message.sealed or b"forged")
    data[draw(st.integers(0, len(data) - 1))] ^= 1 << draw(st.integers(0, 7))
    return changed(message, sealed=bytes(data))


DAMAGES = {
    "drop": lambda sent, at, _, __: sent[:at] + sent[at + 1 :],
    "repeat": lambda sent, at, _, __: [*sent[: at + 1], *sent[at:]],
    "swap": lambda sent, at, _, __: [*sent[:at], *reversed(sent[at : at + 2]), *sent[at + 2 :]],
    "to the front": lambda sent, at, _, __: [sent[at], *sent[:at], *sent[at + 1 :]],
    "cut": lambda sent, at, _, __: sent[:at],
    "graft": lambda sent, at, other, _: [*sent[:at], other[at], *sent[at + 1 :]],
    "flip": lambda sent, at, _, draw: [*sent[:at], flipped(sent[at], draw), *sent[at + 1 :]],
    "last": lambda sent, at, _, __: [*sent[:at], changed(sent[at], last=not sent[at].last), *sent[at + 1 :]],
    "nonce": lambda sent, at, _, __: [*sent[:at], changed(sent[at], answer_nonce=bytes(32)), *sent[at + 1 :]],
    "no nonce": lambda sent, at, _, __: [*sent[:at], changed(sent[at], answer_nonce=b""), *sent[at + 1 :]],
    "add": lambda sent, at, _, __: [*sent[:at], changed(sent[at], text="in the clear"), *sent[at + 1 :]],
    "plain": lambda sent, at, _, __: [*sent[:at], pb.GenerateChunk(text="forged"), *sent[at + 1 :]],
}


def read_all(opener, messages, got):
    for message in messages:
        got.append(opener(message))
    opener.finish()


@given(data=st.data(), count=st.integers(2, 6), times=st.integers(1, 3))
def test_every_damage_to_an_answer_ends_in_decryption_failed_after_a_true_prefix(data, count, times):
    opener, plain, sent = exchange(count)
    _, _, other = exchange(count + 3)
    damaged = list(sent)
    for _ in range(times):
        if damaged:
            at = data.draw(st.integers(0, min(len(damaged), len(other)) - 1))
            damaged = DAMAGES[data.draw(st.sampled_from(sorted(DAMAGES)))](damaged, at, other, data.draw)
    assume(damaged != sent)
    got = []
    with pytest.raises(DecryptionFailed):
        read_all(opener, damaged, got)
    assert got == plain[: len(got)]


def test_two_answers_to_one_request_have_different_keys():
    wire, opener = seal_request(request().SerializeToString(), X25519_KEY.config, issued_ms=NOW_MS)
    opened = open_request(pb.GenerateRequest.FromString(wire), X25519_KEY)
    chunk = pb.GenerateChunk(text="the same")
    first, second = opened.sealer()(chunk), opened.sealer()(chunk)
    assert first.sealed != second.sealed
    assert opener(first) == chunk


class Clock:
    def __init__(self, now=1_000.0):
        self.now = now

    def __call__(self):
        return self.now


def test_a_replay_is_refused_within_the_window_and_as_old_after_it():
    clock = Clock()
    window = ReplayWindow(clock=clock)
    window.admit(b"one", 1_000.0)
    for now in (1_000.0, 1_030.0, 1_060.0, 1_061.0, 9_000.0):
        clock.now = now
        with pytest.raises(DecryptionFailed):
            window.admit(b"one", 1_000.0)
    assert not len(window)


def test_memory_is_bounded_and_nothing_is_forgotten_early():
    clock = Clock()
    window = ReplayWindow(most=3, clock=clock)
    for number in range(3):
        window.admit(b"%d" % number, 1_000.0 + number)
    with pytest.raises(BackendOverloaded) as full:
        window.admit(b"more", 1_000.0)
    assert 59 < full.value.retry_after <= 60
    with pytest.raises(DecryptionFailed):
        window.admit(b"0", 1_000.0)
    clock.now += full.value.retry_after + 0.1
    window.admit(b"more", clock.now)


def test_one_client_cannot_fill_the_memory_of_others():
    window = ReplayWindow(most=4, clock=Clock())
    for number in range(2):
        window.admit(b"a%d" % number, 1_000.0, "greedy")
    with pytest.raises(BackendOverloaded):
        window.admit(b"a2", 1_000.0, "greedy")
    window.admit(b"b0", 1_000.0, "modest")


def test_what_was_sealed_before_a_restart_is_refused_and_may_be_sent_again():
    window = ReplayWindow(clock=Clock())
    with pytest.raises(BackendUnavailable):
        window.admit(b"one", 999.0)


@given(
    steps=st.lists(st.tuples(st.integers(0, 9), st.integers(-70, 70), st.integers(0, 40)), max_size=60),
    most=st.integers(1, 5),
)
def test_no_request_is_ever_admitted_twice(steps, most):
    clock = Clock()
    window, admitted, issued = ReplayWindow(most=most, clock=clock), set(), {}
    for name, offset, pause in steps:
        clock.now += pause
        when = issued.setdefault(name, clock.now + offset)  # what was sealed cannot be changed
        try:
            window.admit(b"%d" % name, when)
        except (DecryptionFailed, BackendUnavailable, BackendOverloaded):
            continue
        assert name not in admitted
        admitted.add(name)
        assert len(window) <= most


def test_key_files_are_written_once_private_and_read_back(tmp_path):
    made = write_key(tmp_path, "a", suite=HYBRID, days=3)
    assert (tmp_path / "a.seal").stat().st_mode & 0o077 == 0
    assert read_public(tmp_path / "a.seal.pub") == (made,)
    assert [key.config for key in read_private(tmp_path / "a.seal")] == [made]
    assert made.digest.hex() in (tmp_path / "a.seal.pub").read_text()
    with pytest.raises(ConfigError, match="choose another name"):
        write_key(tmp_path, "a", suite=X25519, days=3)
    with pytest.raises(ConfigError, match="cannot name a key"):
        write_key(tmp_path, "../a", suite=X25519, days=3)


@pytest.mark.parametrize(
    "line",
    ["", "# only a comment", "x25519", "x25519 2027-01-01T00:00:00Z AAAA", "x25519 tomorrow " + "A" * 43 + "=",
     "rot13 2027-01-01T00:00:00Z " + "A" * 43 + "=", "x25519 2027-01-01T00:00:00Z !" + "A" * 42 + "="],
)  # fmt: skip
def test_a_file_that_is_no_key_is_refused_with_its_line_and_without_its_content(tmp_path, line):
    (tmp_path / "bad.pub").write_text(line)
    with pytest.raises(ConfigError) as refused:
        read_public(tmp_path / "bad.pub")
    assert str(tmp_path / "bad.pub") in str(refused.value)
    assert "AAAA" not in str(refused.value)


def test_a_ring_takes_new_keys_drops_removed_ones_and_survives_a_bad_file(tmp_path):
    clock = Clock(datetime.now(UTC).timestamp())
    old = write_key(tmp_path, "old", suite=X25519, days=1)
    ring = KeyRing(tmp_path, clock=clock)
    new = write_key(tmp_path, "new", suite=X25519, days=2)
    assert ring.offered() == (old,)
    clock.now += 1.1
    assert ring.offered() == (new, old)  # both at once, the one that lasts longer first
    (tmp_path / "bad.seal").write_text("nonsense")
    clock.now += 1.1
    assert ring.offered() == (new, old)
    (tmp_path / "bad.seal").unlink()
    (tmp_path / "old.seal").unlink()
    ring.reload()
    assert ring.offered() == (new,)
    clock.now += 3 * 86_400
    assert ring.offered() == ()
    assert ring.keys()  # known, so that it can be refused as expired


def offered(*keys):
    return [
        pb.SealingKey(suite=each.suite.name, public_key=each.public, not_after=int(each.not_after.timestamp()))
        for each in keys
    ]


def test_only_pinned_keys_that_have_not_expired_are_taken(tmp_path):
    one, two, strange = (write_key(tmp_path, name, suite=X25519, days=2) for name in ("one", "two", "strange"))
    pins = tmp_path / "sealing.pub"
    pins.write_text(one.line() + "\n")
    wall, clock = Clock(datetime.now(UTC).timestamp()), Clock()
    keys = NodeKeys(Pins(SealedSpec(keys=pins)), clock=clock, wall=wall)
    assert keys.current() is None
    with pytest.raises(DecryptionFailed, match="none of the node's sealing keys"):
        keys.choose(offered(strange))
    with pytest.raises(DecryptionFailed, match="offers no sealing key"):
        keys.choose([])
    assert keys.choose(offered(strange, two, one)) == one
    assert keys.current() == one
    pins.write_text(f"{one.line()}\n{two.line()}\n")  # the pins follow their file
    assert keys.choose(offered(strange, two, one)) == two
    clock.now += 301
    assert keys.current() is None  # fetched too long ago
    wall.now += 2 * 86_400 + 1
    with pytest.raises(DecryptionFailed, match="expired"):
        keys.choose(offered(one, two))


def test_a_key_whose_expiry_a_proxy_extends_is_not_the_pinned_one(tmp_path):
    key = write_key(tmp_path, "one", suite=X25519, days=2)
    keys = NodeKeys(Pins(SealedSpec(keys=tmp_path / "one.seal.pub")))
    [longer] = offered(key)
    longer.not_after += 86_400
    with pytest.raises(DecryptionFailed):
        keys.choose([longer])


@pytest.mark.parametrize(
    "key", [pb.SealingKey(suite="rot13"), pb.SealingKey(suite="x25519", public_key=b"short"),
            pb.SealingKey(suite="x25519", public_key=bytes(32), not_after=2**62)],
)  # fmt: skip
def test_a_key_that_is_none_is_ignored(tmp_path, key):
    made = write_key(tmp_path, "one", suite=X25519, days=2)
    keys = NodeKeys(Pins(SealedSpec(keys=tmp_path / "one.seal.pub")))
    assert keys.choose([key, *offered(made)]) == made
