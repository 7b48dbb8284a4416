"""Planted faults in the cache on disk and in answers that identical requests share."""

from __future__ import annotations

from tests.mutants.changes import always, drop, drop_item, drop_operand, never, returns, swap
from tests.mutants.mutant import Mutant

_ANSWERS = "hybrid_llm.router.caching.answers"
_DATABASE = "hybrid_llm.router.caching.database"
_DISK = "hybrid_llm.router.caching.disk"
_FLIGHTS = "hybrid_llm.router.caching.flights"
_GUARDED = "hybrid_llm.router.caching.guarded"
_MEMORY = "hybrid_llm.router.caching.memory"
_SEALING = "hybrid_llm.router.caching.sealing"
_SHARED = "hybrid_llm.router.caching.shared"

MUTANTS = (
    # Who may ask
    Mutant(
        "the disk answers without a clearance",
        f"{_DISK}:DiskCache.get",
        swap("require_clearance(cleared, self.location, Purpose.CACHE)", "cleared.request"),
    ),
    Mutant(
        "the disk stores without a clearance",
        f"{_DISK}:DiskCache.put",
        swap("require_clearance(cleared, self.location, Purpose.CACHE)", "cleared.request"),
    ),
    Mutant("tenants share a name on disk", f"{_ANSWERS}:entry_name", drop_item("repr(request.tenant)")),
    Mutant(
        "another model's answer is replayed",
        f"{_GUARDED}:GuardedCache._replay",
        drop_operand("answer.model != self._fleet.model(backend)"),
    ),
    Mutant(
        "an answer under another policy is replayed",
        f"{_GUARDED}:GuardedCache._replay",
        drop_operand("answer.policy != routed.policy.digest"),
    ),
    Mutant(
        "a version of a model is not known",
        "hybrid_llm.router.fleet:Fleet.model",
        swap("f'{known.model} {known.revision}'", "known.model"),
    ),
    # What the file shows
    Mutant(
        "answers are stored as they are",
        f"{_SEALING}:Sealer.seal",
        swap("cipher.encrypt(nonce, plain, _bound(name, stored))", "plain"),
    ),
    Mutant(
        "all entries have one key",
        f"{_SEALING}:Sealer.seal",
        swap("secrets.token_bytes(_SALT)", "bytes(_SALT)"),
    ),
    Mutant(
        "all entries have one nonce",
        f"{_SEALING}:Sealer.seal",
        swap("secrets.token_bytes(_NONCE)", "bytes(_NONCE)"),
    ),
    Mutant("an entry opens under another name", f"{_SEALING}:_bound", swap("name.hex().encode()", "b''")),
    Mutant(
        "an entry can be made younger",
        f"{_SEALING}:_bound",
        swap("(_VERSION, name.hex().encode(), stored)", "(_VERSION, name.hex().encode(), 0)"),
    ),
    Mutant("names need no key", f"{_SEALING}:Sealer.name", swap("self._naming", "bytes(32)")),
    Mutant("lengths show what was answered", f"{_ANSWERS}:encoded", swap("-len(data) % _BLOCK", "0")),
    Mutant("others may read the key", f"{_SEALING}:_read", never("(problem := unsafe_mode(path))")),
    Mutant("anything is a key", f"{_SEALING}:_read", never("not _HEX.fullmatch(text)")),
    Mutant("others may read the file", "hybrid_llm.core.files:create_private", swap("384", "420")),
    Mutant(
        "what is removed stays in the file",
        f"{_DATABASE}:AnswerFile.clear",
        swap("self._db.execute('DELETE FROM answers').rowcount", "0"),
    ),
    # What is not an answer any more
    Mutant(
        "an answer on disk never expires",
        f"{_DISK}:DiskCache._opened",
        swap("self._expired() <= entry.stored <= self._clock() + _SKEW_S", "entry.stored <= self._clock() + _SKEW_S"),
    ),
    Mutant(
        "an answer from the future is taken",
        f"{_DISK}:DiskCache._opened",
        swap("self._expired() <= entry.stored <= self._clock() + _SKEW_S", "self._expired() <= entry.stored"),
    ),
    Mutant(
        "what has expired stays in the file",
        f"{_DISK}:DiskCache._flush",
        drop("file.expire(self._expired(), _SOME)"),
    ),
    Mutant(
        "what does not decrypt stays",
        f"{_DISK}:DiskCache.get",
        drop("self._try(lambda file: file.remove(name), writes=True)"),
    ),
    Mutant(
        "the file has no limit", f"{_DATABASE}:AnswerFile.put", drop("self._make_room(len(entry.data) // _PAGE + 8)")
    ),
    Mutant("one answer may fill the file", f"{_DATABASE}:AnswerFile.put", never("len(entry.data) > self._largest")),
    Mutant(
        "the oldest answer gives way, used or not",
        f"{_DISK}:DiskCache._flush",
        drop("file.use([(when, name) for name, when in self._used.items()])"),
    ),
    Mutant("memory has no limit", f"{_MEMORY}:MemoryCache.put", drop_operand("self._bytes > self._max_bytes")),
    Mutant("memory forgets what it gave up", f"{_MEMORY}:MemoryCache._drop", drop("self._bytes -= entry[1]")),
    # What fails
    Mutant(
        "another program's file is taken",
        f"{_DATABASE}:_check",
        never("head and (head[:16] != _HEADER or head[68:72] != _APPLICATION.to_bytes(4, 'big'))"),
    ),
    Mutant(
        "a failure is tried again with each request",
        f"{_DISK}:DiskCache._rests",
        swap("time.monotonic() < (self._writes_at if writes else self._reads_at)", "False"),
    ),
    Mutant(
        "a full disk stops reading too",
        f"{_DISK}:DiskCache._failed",
        always("not writes or self._file is None or _is_damaged(error)"),
    ),
    Mutant("a damaged file stays", f"{_DISK}:DiskCache._failed", never("_is_damaged(error) and self._deleted()")),
    Mutant(
        "a damaged file is deleted under others", f"{_SEALING}:KeyHold.is_alone", swap("return alone", "return True")
    ),
    Mutant(
        "the text of SQLite is logged",
        f"{_DISK}:_described",
        swap("getattr(error, 'sqlite_errorname', type(error).__name__)", "str(error)"),
    ),
    # Answers in flight
    Mutant(
        "requests of any tenant share an answer in flight",
        f"{_GUARDED}:GuardedCache._join",
        swap("entry_name(cleared.request, self._key)", "b''"),
    ),
    Mutant(
        "requests with tools share an answer in flight", f"{_GUARDED}:GuardedCache._join", drop_operand("request.tools")
    ),
    Mutant("nothing is shared in flight", f"{_FLIGHTS}:Flight.take_lead", never("self._is_led or self.is_whole")),
    Mutant(
        "a request in flight is joined after the cache is read",
        f"{_FLIGHTS}:Flights.leave",
        always("is_done or not flight.users"),
    ),
    Mutant(
        "a leader that leaves keeps the lead", f"{_SHARED}:SharedRun._generate", swap("flight.drop_lead(self)", "None")
    ),
    Mutant(
        "a leader that pauses keeps the lead",
        f"{_SHARED}:SharedRun._generate",
        swap("flight.publish(self, new)\nflight.pause(self)", "flight.publish(self, new)"),
    ),
    Mutant("a follower has no deadline", f"{_SHARED}:SharedRun._wait", never("remaining <= 0.0")),
    Mutant("a follower cannot leave", f"{_SHARED}:SharedRun._wait", never("self._left")),
    Mutant("a thread waits for the loop that it blocks", f"{_FLIGHTS}:thread_wakeup", swap("in_event_loop()", "False")),
    Mutant("an app gets chunks twice", f"{_SHARED}:SharedRun._generate", swap("Overlap(published)", "Overlap(())")),
    Mutant("an answer is put together of two", f"{_FLIGHTS}:_begin_alike", returns("True")),
    Mutant(
        "an answer that ends early is taken",
        f"{_FLIGHTS}:Overlap.rest",
        drop_operand("chunk.finish_reason is not None and any(self._known)"),
    ),
    Mutant(
        "answers that are over stay in memory",
        f"{_FLIGHTS}:Flights.leave",
        never("(is_done or not flight.users) and self._flights.get(flight.key) is flight"),
    ),
    Mutant(
        "followers do not count as saved", f"{_SHARED}:SharedRun._take", drop("self._joined(self.answering, chunk)")
    ),
)
