"""How the simulated backends serve one call: slots, times, energy, price. Who is called is decided in `calls`."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from hybrid_llm.core.request import Location
from hybrid_llm.lab.simulate.device import Device
from hybrid_llm.lab.simulate.fleet import Server
from hybrid_llm.lab.simulate.job import Attempt, Ledger
from hybrid_llm.lab.simulate.rtt import RoundTrips, constant_rtt
from hybrid_llm.lab.simulate.timeline import Timeline
from hybrid_llm.lab.simulate.trace import Spans
from hybrid_llm.lab.simulate.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all policies of one comparison share."""

    world: World = field(default_factory=World)
    rtt: RoundTrips = field(default_factory=lambda: constant_rtt(World().network.rtt_ms))
    offline: Spans = field(default_factory=Spans)
    metered: Spans = field(default_factory=Spans)
    seed: int = 1


def draw(setting: Setting, *what: object) -> float:
    """A number from 0 to 1 that is the same for the same *what* under every policy."""
    return random.Random("/".join(map(str, (setting.seed, *what)))).random()  # noqa: S311  a simulation, no secret


@dataclass(slots=True, kw_only=True)
class Service:
    """The backends at work. *step* is told of a lane's first token, its end, its refusal, its deadline."""

    setting: Setting
    device: Device
    ledger: Ledger
    timeline: Timeline
    step: Callable[[Attempt], None]
    budget: float | None = None
    """Most that a tenant may spend in a day."""

    def affordable(self, tenant: str | None, server: Server, prompt_tokens: int, max_tokens: int) -> bool:
        """Whether the budget allows the highest price of such a request."""
        if self.budget is None or not (server.input_per_1k or server.output_per_1k):
            return True
        spent = self.ledger.spent(tenant, self.timeline.now)
        return spent + self._highest(server, prompt_tokens, max_tokens) <= self.budget

    def _highest(self, server: Server, prompt_tokens: int, max_tokens: int) -> float:
        return server.price(prompt_tokens + self.setting.world.requests.template_tokens, max_tokens)

    def enter(self, lane: Attempt) -> bool:
        """Take a slot of the device, or a place in its queue; false where both are full."""
        entered = lane.server.station.enter(lane.number, lane)
        if entered is None:
            return False
        if entered:
            self._serve(lane)
        else:
            self.timeline.at(lane.job.expires, self.step, lane)
        return True

    def call(self, lane: Attempt) -> None:
        """Send it to a node, which serves it, lets it wait, or turns it away after one round trip."""
        job, now = lane.job, self.timeline.now
        job.away = True
        job.left |= Location.CLOUD not in job.allowed
        lane.rtt_ms = self.setting.rtt.at(now)
        self.device.call(1)
        lane.broken = self._breaks(lane)
        if lane.broken or not self.enter(lane):
            lane.refused = True
            self.timeline.at(min(job.expires, now + lane.rtt_ms / 1000.0), self.step, lane)
            return
        most = self._highest(lane.server, lane.prompt_tokens, job.request.max_tokens)
        self.ledger.hold(lane.number, job.request.tenant, now, most)

    def _breaks(self, lane: Attempt) -> bool:
        """Whether nothing answers this call, by chance."""
        share, job = self.setting.world.node.failure_share, lane.job
        return share > 0.0 and draw(self.setting, lane.server.name, job.number, job.calls[lane.server.name]) < share

    def _serve(self, lane: Attempt) -> None:
        """A slot is free: from here all times of the answer are known."""
        lane.serving = True
        if lane.server.location is Location.EDGE:
            self._plan_edge(lane)
        else:
            self._plan_node(lane)
        lane.ends_at = lane.first_at + (lane.output_tokens - 1) * lane.token_s
        self.timeline.at(min(lane.first_at, lane.job.expires), self.step, lane)

    def _plan_edge(self, lane: Attempt) -> None:
        edge, lane.speed = self.setting.world.edge, self.device.speed()
        before = edge.overhead_ms / 1000.0 + lane.prompt_tokens / edge.prefill_tokens_per_s
        lane.first_at = self.timeline.now + before / lane.speed
        lane.token_s = 1.0 / edge.decode_tokens_per_s / lane.speed
        self.device.work(lane.speed, lane.prompt_tokens + lane.output_tokens)

    def _plan_node(self, lane: Attempt) -> None:
        node = self.setting.world.node
        streams = lane.server.station.active + lane.server.background
        before = (lane.rtt_ms + node.overhead_ms) / 1000.0 + lane.prompt_tokens / node.prefill_tokens_per_s
        lane.first_at = self.timeline.now + before
        lane.token_s = node.decode_ms / 1000.0 * (1.0 + node.batch_slowdown * (streams - 1))

    def release(self, lane: Attempt, *, cut: bool = False) -> None:
        """The call is over, however: give back its slot or place, learn, pay, and start who comes next."""
        lane.epoch += 1
        self._learn(lane)
        if lane.server.location is Location.CLOUD:
            self.device.call(-1)
            self._pay(lane, free=lane.refused or (cut and not lane.first))
        if lane.serving:
            self._leave(lane, lane.server)
        elif not lane.refused:
            lane.server.station.give_up(lane.number)

    def _learn(self, lane: Attempt) -> None:
        """What the router's meter would have seen of it."""
        server, state = lane.server, lane.job.states[lane.server.name]
        if not lane.first:
            after_ms = (self.timeline.now - lane.began) * 1000.0
            server.predictor.missed(lane.prompt_tokens, state, after_ms=after_ms)
            return
        ttft_ms = (lane.first_at - lane.began) * 1000.0
        tpot_ms = lane.token_s * 1000.0 if lane.produced(self.timeline.now) > 1 else None
        server.recent.add(ttft_ms)
        server.predictor.observe(lane.prompt_tokens, state, ttft_ms=ttft_ms, tpot_ms=tpot_ms)

    def _leave(self, lane: Attempt, server: Server) -> None:
        if server.location is Location.CLOUD:
            server.learn_rtt(lane.rtt_ms, self.setting.world.network.rtt_weight)
        else:
            self.device.work(-lane.speed, -(lane.prompt_tokens + lane.output_tokens))
        following = server.station.leave()
        server.report()
        if following is not None:
            following.epoch += 1
            self._serve(following)

    def _pay(self, lane: Attempt, *, free: bool) -> None:
        """The prompt, and what came of the answer."""
        cost = 0.0 if free else lane.server.price(lane.prompt_tokens, lane.produced(self.timeline.now))
        lane.job.cost += cost
        self.ledger.settle(lane.number, cost)
