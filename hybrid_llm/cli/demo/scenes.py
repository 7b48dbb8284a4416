"""The scenes of the demonstration, in the order in which they are played."""

from __future__ import annotations

from typing import Final

from hybrid_llm.cli.demo import faults, privacy, reloading, routing
from hybrid_llm.cli.demo.scene import Scene

__all__ = ["SCENES"]

SCENES: Final = (
    Scene("plain", "nothing special", routing.plain),
    Scene("tagged phi", "declared private by the app", privacy.tagged),
    Scene("private text", "a medical record number is found in it", privacy.detected),
    Scene("too long", "more than the device's model can hold", routing.too_long),
    Scene("personal data", "two addresses and a number, for a form that a node fills in", privacy.personal),
    Scene("device hot", "91 degrees, a given signal", routing.hot),
    Scene("battery low", "10 %, not charging, given signals", routing.battery),
    Scene("hard task", "the policy gives math to the larger model", routing.math),
    Scene("the same again", "a question that the cloud has answered before", routing.again),
    Scene("short deadline", "150 ms, and the nodes are 200 ms away and back", routing.deadline),
    Scene("budget used up", "1.995 of 2 USD are spent today, a given figure", routing.budget),
    Scene("streaming", "token by token from a node", routing.streaming),
    Scene("async", "six at once from one event loop", routing.concurrent),
    Scene("silent node", "the node of a conversation says nothing for two seconds", faults.silent),
    Scene("a node is killed", "one of two, while six answers stream", faults.node_gone),
    Scene("cut in mid-stream", "the network is lost after a dozen characters", faults.cut),
    Scene("offline", "the other node is stopped too", faults.offline),
    Scene("offline, too long", "nobody is left: a typed error", faults.nobody),
    Scene("back", "a node is started again", faults.back),
    Scene("broken policy", "three errors, written over the good one", reloading.broken_policy),
    Scene("mended policy", "the file is put right", reloading.mended_policy),
)
